#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/layer_ops.h"

namespace quern {

/// Inner loops over contiguous elements, T float or double, compiled for several vector widths and
/// chosen at load time. Their bits are the same on every processor: no fused multiply-add, and sums
/// run over 16 lanes that are folded in one order.

/// Largest element; n >= 1. A positive NaN counts as larger than infinity.
template <typename T>
T row_max(const T* x, std::int64_t n);

/// out[i] = exp(x[i] - shift), relative error below 2^-22 (float) or 2^-51 (double); returns their
/// sum. out may be x. Arguments are held in the range of normal results, so tails are of the order
/// of 1e-38 (1e-308) instead of 0. NaN stays NaN.
template <typename T>
double exp_row(const T* x, std::int64_t n, T shift, T* out);

/// The sum of exp_row without its values.
template <typename T>
double exp_row_sum(const T* x, std::int64_t n, T shift);

template <typename T>
T sum_of_squares(const T* x, std::int64_t n);

/// 1 / sqrt(mean(x^2) + epsilon): what rms_norm multiplies a row by.
template <typename T>
T inverse_norm(const T* x, std::int64_t n, float epsilon) {
  return T{1} / std::sqrt(sum_of_squares(x, n) / static_cast<T>(n) + T{epsilon});
}

/// gate[i] = activation(gate[i]) * up[i].
template <typename T>
void gate_row(T* gate, const T* up, std::int64_t n, Activation activation);

/// One row of products on its way to fixed point.
template <typename T>
struct FixedPointRow {
  const T* products;
  double row_scale;             ///< power of two of this row
  const double* column_scales;  ///< powers of two of the columns
  double limit;                 ///< scaled magnitudes from here on, and NaN, are not added
};

/// sums[i] += products[i] * row_scale * column_scales[i], rounded to nearest even. Returns how
/// many were not added.
template <typename T>
std::int64_t add_fixed_point(const FixedPointRow<T>& row, std::int64_t n, std::int64_t* sums);

/// sums[i] += x[i]^2 in double.
template <typename T>
void add_squares(const T* x, std::int64_t n, double* sums);

}  // namespace quern
