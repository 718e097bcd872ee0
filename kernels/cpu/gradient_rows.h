#pragma once

#include <cstdint>

#include "kernels/layer_ops.h"

namespace quern {

/// Inner loops of the backward pass, compiled and with the same bits as those of row_kernels.h.

/// sum of a[i] * b[i]
float dot_row(const float* a, const float* b, std::int64_t n);

/// sum of x[i]^2 in double
double exact_sum_of_squares(const float* x, std::int64_t n);

/// out[i] = x[i] * factor. out may be x.
void scale_row(const float* x, float factor, std::int64_t n, float* out);

/// The operands of one row of y = x * inverse * weight, inverse = 1 / sqrt(mean(x^2) + epsilon).
struct NormRow {
  const float* x;
  const float* weight;
  float inverse;
};

/// dx = inverse * dy * weight - x * inverse^3 / n * sum(dy * weight * x). dx may be dy.
void norm_gradient_row(const NormRow& row, const float* dy, std::int64_t n, float* dx);

/// gate and up of h = activation(gate) * up become their gradients.
void gate_gradient_row(float* gate, float* up, const float* dh, std::int64_t n,
                       Activation activation);

/// slopes[i] = weights[i] * factor * (slopes[i] - mean): the gradient of a softmax.
void softmax_gradient_row(const float* weights, float factor, float mean, std::int64_t n,
                          float* slopes);

/// How squared gradients become fixed point.
struct FixedPointSquares {
  double scale;  ///< power of two
  double limit;  ///< scaled squares from here on, and NaN, are not added
};

/// sums[i] += gradients[i]^2 * scale, rounded to nearest even. Returns how many were not added.
std::int64_t add_fixed_point_squares(const float* gradients, const FixedPointSquares& format,
                                     std::int64_t n, std::int64_t* sums);

/// Largest of non-negative elements; NaN counts as larger than infinity; 0 if n = 0.
double row_max(const double* x, std::int64_t n);

/// out[i] = sums[i] * scale, a power of two; rounded once unless out is below the normal floats.
void values_of_row(const std::int64_t* sums, double scale, std::int64_t n, float* out);

}  // namespace quern
