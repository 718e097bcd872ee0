#pragma once

#include "kernels/cuda/codebook_table.h"

namespace quern::gpu {

/// Sets the bytes of mask to 1 at the `count` largest of `elems` values, ties to the lower index,
/// and leaves the others. No value is NaN or below 0; zeros are marked only if `with_zeros`.
/// Asynchronous.
struct LargestOf {
  const float* values;
  std::int64_t elems;
  std::int64_t count;
  bool with_zeros = false;
};
void mark_largest(CudaContext& context, const LargestOf& input, std::uint8_t* mask);

/// CodebookSolver::choose_outliers and count_ranges. They synchronise where they take quartiles,
/// to throw InputError on a weight that is not finite.
void choose_outliers(CudaContext& context, const FloatWeights& weights, ConstTensorView fisher,
                     const OutlierRule& rule, TensorView mask);
void count_outlier_ranges(CudaContext& context, const FloatWeights& weights, TensorView counts);

}  // namespace quern::gpu
