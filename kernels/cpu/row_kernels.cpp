#include "kernels/cpu/row_kernels.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "kernels/cpu/vector_math.h"

namespace quern {
namespace {

// Lanes are emptied into a double this often, which bounds the error of long sums.
constexpr std::int64_t kBlock = 1024;

/// Maps the bits of floats to integers of the same order, and back. Integer maxima vectorise.
[[gnu::always_inline]] inline std::int32_t ordered_bits(std::int32_t bits) {
  return bits < 0 ? bits ^ 0x7FFFFFFF : bits;
}

[[gnu::always_inline]] inline float gelu_tanh(float x) {
  return x * sigmoid(gelu_argument(x));
}

[[gnu::always_inline]] inline void exp_block(const float* x, std::int64_t n, float shift,
                                             float* out) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = exponential(x[i] - shift);
}

}  // namespace

[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] float row_max(
    const float* x, std::int64_t n) {
  std::int32_t largest = ordered_bits(std::bit_cast<std::int32_t>(x[0]));
  for (std::int64_t i = 1; i < n; ++i) {
    largest = std::max(largest, ordered_bits(std::bit_cast<std::int32_t>(x[i])));
  }
  return std::bit_cast<float>(ordered_bits(largest));
}

[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] double exp_row(const float* x,
                                                                                     std::int64_t n,
                                                                                     float shift,
                                                                                     float* out) {
  double total = 0.0;
  for (std::int64_t begin = 0; begin < n; begin += kBlock) {
    const std::int64_t count = std::min(kBlock, n - begin);
    exp_block(x + begin, count, shift, out + begin);
    total += lane_sum<float>(count, [&](std::int64_t i) { return out[begin + i]; });
  }
  return total;
}

[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] double exp_row_sum(
    const float* x, std::int64_t n, float shift) {
  std::array<float, kBlock> values;
  double total = 0.0;
  for (std::int64_t begin = 0; begin < n; begin += kBlock) {
    const std::int64_t count = std::min(kBlock, n - begin);
    exp_block(x + begin, count, shift, values.data());
    total +=
        lane_sum<float>(count, [&](std::int64_t i) { return values[static_cast<std::size_t>(i)]; });
  }
  return total;
}

[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] float sum_of_squares(
    const float* x, std::int64_t n) {
  return lane_sum<float>(n, [x](std::int64_t i) { return x[i] * x[i]; });
}

[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] void gate_row(
    float* gate, const float* up, std::int64_t n, Activation activation) {
  switch (activation) {
    case Activation::silu:
      for (std::int64_t i = 0; i < n; ++i) gate[i] = gate[i] * sigmoid(gate[i]) * up[i];
      break;
    case Activation::relu:
      for (std::int64_t i = 0; i < n; ++i) gate[i] = (gate[i] < 0.0F ? 0.0F : gate[i]) * up[i];
      break;
    case Activation::gelu_tanh:
      for (std::int64_t i = 0; i < n; ++i) gate[i] = gelu_tanh(gate[i]) * up[i];
      break;
  }
}

[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] std::int64_t add_fixed_point(
    const FixedPointRow& row, std::int64_t n, std::int64_t* sums) {
  const auto [products, row_scale, column_scales, limit] = row;
  std::int64_t refused = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double scaled = static_cast<double>(products[i]) * row_scale * column_scales[i];
    const bool fits = std::fabs(scaled) < limit;
    refused += fits ? 0 : 1;
    sums[i] += nearest_integer(fits ? scaled : 0.0);
  }
  return refused;
}

[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] void add_squares(
    const float* x, std::int64_t n, double* sums) {
  for (std::int64_t i = 0; i < n; ++i) {
    sums[i] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  }
}

}  // namespace quern
