#pragma once

#include <cstdint>

#include "kernels/cpu/row_lanes.h"

namespace quern {

/// Inner loops of the codebook solver, compiled for several vector widths and chosen at load time.
/// Their bits are the same on every processor: no fused multiply-add, no sums across lanes.

/// Arrays over states are readable and writable this far beyond the last one.
inline constexpr std::int64_t kStatePadding = 16;

/// One more interval in the partition of ascending points. State j: the first j points are covered.
/// An interval (i, j] explains (moment[j] - moment[i])^2 / (mass[j] - mass[i]) of the sum of
/// squares; the layer maximises what its intervals explain together.
struct SplitLayer {
  const double* mass;         ///< [points + 1] prefix sums of F
  const double* moment;       ///< [points + 1] prefix sums of F x
  const double* before;       ///< [points + 1] explained with one interval fewer
  const std::int32_t* least;  ///< [points + 1] splits of that layer: no split here is smaller
  std::int64_t points;
};

/// gain[j], split[j] = value and first place of the largest before[i] + explained(i, j] over
/// i <= j, for all states. Divide and conquer on the monotone splits.
void solve_layer(const SplitLayer& layer, double* gain, std::int32_t* split);

/// The split of the last state alone.
std::int32_t solve_last_state(const SplitLayer& layer);

/// codes[k] = how many of the ascending bounds lie below w[k].
void count_bounds_below(const float* w, std::int64_t n, const float* bounds, int bound_count,
                        std::uint8_t* codes);

/// The tables of kLanes rows.
struct LaneTables {
  const double* values;  ///< [count, kLanes]
  const double* bounds;  ///< [count - 1, kLanes]: halfway; infinite where the next value repeats
  int count;
};

/// One column of a coordinate descent in kLanes rows.
struct LaneColumn {
  const double* weight;       ///< [kLanes]
  const double* gradient;     ///< [kLanes] (H e)_j of the errors e = weight - value
  const std::uint8_t* fixed;  ///< [kLanes] 1: stays as it is
  double inverse_diagonal;    ///< 1 / H_jj
};

/// The centroid nearest to weight - e_j + (H e)_j / H_jj, which is best while the other columns
/// stay. error and codes are updated, change = new error - old error. True if anything changed.
bool descend_column(const LaneTables& tables, const LaneColumn& column, double* error,
                    double* change, std::uint8_t* codes);

/// Columns of H that are summed by the codes of their rows at a time.
inline constexpr std::int64_t kBinWidth = 64;

/// sums[bins[i]] += panel[i] for rows [count, kBinWidth].
void add_rows_to_bins(const double* panel, const std::uint16_t* bins, std::int64_t count,
                      double* sums);

}  // namespace quern
