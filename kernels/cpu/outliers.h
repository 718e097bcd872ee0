#pragma once

#include <cstdint>
#include <optional>

#include "kernels/codebook_solver.h"

namespace quern {

/// Sets the bytes of mask to 1 at the `count` largest of `elems` values, ties to the lower index,
/// and leaves the others. No value is NaN or below 0; zeros are marked only if `with_zeros`.
struct LargestOf {
  const float* values;
  std::int64_t elems;
  std::int64_t count;
  bool with_zeros = false;
};
void mark_largest(const LargestOf& input, std::uint8_t* mask, int threads);

/// Where the middle half of the weights of a module begins and ends, and how far a weight lies
/// beyond it.
struct Quartiles {
  double low = 0.0;
  double high = 0.0;

  /// numpy.quantile(weight, [0.25, 0.75]) with linear interpolation, in float64. Throws InputError
  /// if a weight is not finite.
  static Quartiles of(ConstTensorView weight, int threads);

  bool is_beyond(double w, double ranges) const noexcept {
    const double reach = ranges * (high - low);
    return w < low - reach || w > high + reach;
  }
};

/// CodebookSolver::choose_outliers and count_ranges on the host.
void choose_outliers(ConstTensorView weight, ConstTensorView fisher, const OutlierRule& rule,
                     TensorView mask, int threads);
void count_outlier_ranges(ConstTensorView weight, TensorView counts, int threads);

}  // namespace quern
