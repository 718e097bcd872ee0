#pragma once

#include <cstdint>

#include "kernels/layer_ops.h"

namespace quern {

/// Inner loops over contiguous floats, compiled for several vector widths and chosen at load time.
/// Their bits are the same on every processor: no fused multiply-add, and sums run over 16 lanes
/// that are folded in one order.

/// Largest element; n >= 1. A positive NaN counts as larger than infinity.
float row_max(const float* x, std::int64_t n);

/// out[i] = exp(x[i] - shift), relative error below 2^-22; returns their sum. out may be x.
/// Arguments are held in [-87.3, 87.3], so tails are of the order of 1e-38 instead of 0. NaN stays
/// NaN.
double exp_row(const float* x, std::int64_t n, float shift, float* out);

/// The sum of exp_row without its values.
double exp_row_sum(const float* x, std::int64_t n, float shift);

float sum_of_squares(const float* x, std::int64_t n);

/// gate[i] = activation(gate[i]) * up[i].
void gate_row(float* gate, const float* up, std::int64_t n, Activation activation);

/// One row of products on its way to fixed point.
struct FixedPointRow {
  const float* products;
  double row_scale;             ///< power of two of this row
  const double* column_scales;  ///< powers of two of the columns
  double limit;                 ///< scaled magnitudes from here on, and NaN, are not added
};

/// sums[i] += products[i] * row_scale * column_scales[i], rounded to nearest even. Returns how
/// many were not added.
std::int64_t add_fixed_point(const FixedPointRow& row, std::int64_t n, std::int64_t* sums);

/// sums[i] += x[i]^2 in double.
void add_squares(const float* x, std::int64_t n, double* sums);

}  // namespace quern
