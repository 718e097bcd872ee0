#pragma once

#include <cstdint>

#include "kernels/cpu/row_lanes.h"
#include "kernels/solver.h"

namespace quern {

/// One group of columns of kLanes rows, in the order in which they will be rounded.
struct LaneGroup {
  const double* expected = nullptr;  ///< [columns, kLanes]: what would be rounded if the group
                                     ///< itself caused no errors; spans the range
  const double* targets = nullptr;   ///< [columns, kLanes] without the group's own feedback; with
                                     ///< feedback only
  const double* weights = nullptr;   ///< [columns, kLanes]: the original weights
  const double* feedback =
      nullptr;  ///< S^T of the group's columns, or none: `expected` is rounded as it is
  std::int64_t feedback_stride = 0;    ///< elements from one row of S^T to the next
  const double* importance = nullptr;  ///< [columns] cost of a squared error; none: 1
  std::int64_t columns = 0;
};

/// Floats of working space for groups of up to `columns`, with feedback up to `solved_columns`.
std::int64_t grid_work_floats(std::int64_t columns, std::int64_t solved_columns);

/// Scale and zero of every lane: scale = 2 absmax / (2^bits - 1), zero = 2^(bits-1), or the range
/// of what is expected and 0 over 2^bits - 1 steps; lanes of zeros take the range [-1, 1]. The
/// search multiplies the range by factors around 1 and keeps the one with the least sum_j
/// importance_j (target_j - value_j)^2; with feedback the group is really solved for every factor.
/// Scales are nearest-even float16 values, at least the smallest positive one; one that is infinite
/// or NaN means that a lane's weights are beyond the format.
LaneGrid<double> choose_grid(const LaneGroup& group, const GridSpec& spec, float* work);

}  // namespace quern
