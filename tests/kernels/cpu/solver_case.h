#pragma once

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/core/float16.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/solver.h"
#include "tests/kernels/cpu/textbook_gptq.h"

namespace quern::test {

/// H in fixed point, and as the doubles that it stands for.
struct GramCase {
  Tensor sums;
  Tensor exponents;
  Tensor overflow;
  Matrix h;

  GramView view() { return {sums.view(), exponents.view(), overflow.view()}; }
};

/// Every channel has the same exponent; |values| must stay below 2^(62 - 2 exponent).
inline GramCase make_gram(Memory& memory, const Matrix& values, int exponent = 20) {
  const std::int64_t n = values.rows;
  GramCase gram{memory.allocate(DType::i64, {n, n}), memory.allocate(DType::i32, {n}),
                memory.allocate(DType::i64, {1}), Matrix(n, n)};
  memory.clear(gram.sums.view());
  memory.clear(gram.overflow.view());
  for (std::int64_t i = 0; i < n; ++i) {
    gram.exponents.view().as<std::int32_t>()[i] = exponent;
    for (std::int64_t j = i; j < n; ++j) {
      const std::int64_t fixed = std::llrint(std::ldexp(values(i, j), 2 * exponent));
      gram.sums.view().as<std::int64_t>()[i * n + j] = fixed;
      gram.h(i, j) = gram.h(j, i) = std::ldexp(static_cast<double>(fixed), -2 * exponent);
    }
  }
  return gram;
}

inline Matrix random_matrix(std::int64_t rows, std::int64_t columns, unsigned seed,
                            double scale = 1.0) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal(0.0, scale);
  Matrix matrix(rows, columns);
  for (double& value : matrix.values) value = normal(engine);
  return matrix;
}

/// Makes input j of H what input i is: then H is singular.
inline void make_inputs_equal(Matrix& h, std::int64_t i, std::int64_t j) {
  for (std::int64_t k = 0; k < h.columns; ++k) h(j, k) = h(i, k);
  for (std::int64_t k = 0; k < h.rows; ++k) h(k, j) = h(k, i);
}

/// X^T X of inputs whose channels share a few strong directions and differ in size.
inline Matrix correlated_hessian(std::int64_t columns, unsigned seed) {
  const std::int64_t tokens = columns + 16;
  const std::int64_t directions = 4;
  const Matrix hidden = random_matrix(tokens, directions, seed);
  const Matrix mixing = random_matrix(directions, columns, seed + 1);
  const Matrix sizes = random_matrix(1, columns, seed + 2, 0.7);
  Matrix x = random_matrix(tokens, columns, seed + 3);
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t k = 0; k < columns; ++k) {
      for (std::int64_t d = 0; d < directions; ++d) x(t, k) += hidden(t, d) * mixing(d, k);
      x(t, k) *= std::exp(sizes(0, k)) / 8.0;
    }
  }
  Matrix h(columns, columns);
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t i = 0; i < columns; ++i) {
      for (std::int64_t j = 0; j < columns; ++j) h(i, j) += x(t, i) * x(t, j);
    }
  }
  return h;
}

inline Tensor to_tensor(Memory& memory, const Matrix& matrix) {
  Tensor tensor = memory.allocate(DType::f64, {matrix.rows, matrix.columns});
  std::memcpy(tensor.view().data, matrix.values.data(), tensor.view().bytes());
  return tensor;
}

inline bool same_bytes(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() &&
         std::memcmp(a.view().data, b.view().data, a.view().bytes()) == 0;
}

/// x H x^T of row n of x.
inline double row_error(const Matrix& x, const Matrix& h, std::int64_t n) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < h.rows; ++i) {
    double product = 0.0;
    for (std::int64_t j = 0; j < h.rows; ++j) product += h(i, j) * x(n, j);
    sum += product * x(n, i);
  }
  return sum;
}

/// weight - dequantized, by the definition of the format.
inline Matrix rounding_error(const Matrix& weight, const QuantizedTensor& quantized) {
  const std::int64_t rows = weight.rows;
  Matrix error(rows, weight.columns);
  for (std::int64_t n = 0; n < rows; ++n) {
    for (std::int64_t k = 0; k < weight.columns; ++k) {
      const std::int64_t at = quantized.group_of.view().as<std::int32_t>()[k] * rows + n;
      const int code = quantized.codes.view().as<std::uint8_t>()[n * weight.columns + k];
      const int zero = quantized.zeros.view().as<std::uint8_t>()[at];
      const double scale = f16_to_float(quantized.scales.view().as<std::uint16_t>()[at]);
      error(n, k) = weight(n, k) - scale * (code - zero);
    }
  }
  return error;
}

}  // namespace quern::test
