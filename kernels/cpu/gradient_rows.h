#pragma once

#include <cstdint>

#include "kernels/layer_ops.h"

namespace quern {

/// Inner loops of the backward pass, T float or double, compiled and with the same bits as those of
/// row_kernels.h.

/// sum of a[i] * b[i]
template <typename T>
T dot_row(const T* a, const T* b, std::int64_t n);

/// sum of x[i]^2 in double
template <typename T>
double exact_sum_of_squares(const T* x, std::int64_t n);

/// out[i] = x[i] * factor. out may be x.
template <typename T>
void scale_row(const T* x, T factor, std::int64_t n, T* out);

/// The operands of one row of y = x * inverse * weight, inverse = 1 / sqrt(mean(x^2) + epsilon).
template <typename T>
struct NormRow {
  const T* x;
  const T* weight;
  T inverse;
};

/// dx = inverse * dy * weight - x * inverse^3 / n * sum(dy * weight * x). dx may be dy.
template <typename T>
void norm_gradient_row(const NormRow<T>& row, const T* dy, std::int64_t n, T* dx);

/// gate and up of h = activation(gate) * up become their gradients.
template <typename T>
void gate_gradient_row(T* gate, T* up, const T* dh, std::int64_t n, Activation activation);

/// slopes[i] = weights[i] * factor * (slopes[i] - mean): the gradient of a softmax.
template <typename T>
void softmax_gradient_row(const T* weights, T factor, T mean, std::int64_t n, T* slopes);

/// How squared gradients become fixed point.
struct FixedPointSquares {
  double scale;  ///< power of two
  double limit;  ///< scaled squares from here on, and NaN, are not added
};

/// sums[i] += gradients[i]^2 * scale, rounded to nearest even. Returns how many were not added.
template <typename T>
std::int64_t add_fixed_point_squares(const T* gradients, const FixedPointSquares& format,
                                     std::int64_t n, std::int64_t* sums);

/// Largest of non-negative elements; NaN counts as larger than infinity; 0 if n = 0.
double largest_square(const double* x, std::int64_t n);

/// out[i] = sums[i] * scale, a power of two; rounded once unless out is below the normal floats.
void values_of_row(const std::int64_t* sums, double scale, std::int64_t n, float* out);

}  // namespace quern
