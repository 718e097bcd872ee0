#include "kernels/cpu/row_kernels.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

namespace quern {
namespace {

constexpr std::int64_t kLanes = 16;
// Lanes are emptied into a double this often, which bounds the error of long sums.
constexpr std::int64_t kBlock = 1024;

using Lanes = std::array<float, kLanes>;

[[gnu::always_inline]] inline float fold(Lanes& lanes) {
  for (std::size_t width = kLanes / 2; width > 0; width /= 2) {
    for (std::size_t i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

/// Sum of term(i) over [0, n).
template <typename Term>
[[gnu::always_inline]] inline float lane_sum(std::int64_t n, Term term) {
  Lanes lanes{};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      lanes[static_cast<std::size_t>(lane)] += term(i + lane);
    }
  }
  for (; i < n; ++i) lanes[static_cast<std::size_t>(i % kLanes)] += term(i);
  return fold(lanes);
}

/// Maps the bits of floats to integers of the same order, and back. Integer maxima vectorise.
[[gnu::always_inline]] inline std::int32_t ordered_bits(std::int32_t bits) {
  return bits < 0 ? bits ^ 0x7FFFFFFF : bits;
}

/// e^x = 2^n e^r with n = round(x / ln 2): Cody-Waite reduction, Taylor polynomial of degree 7.
[[gnu::always_inline]] inline float exponential(float x) {
  constexpr float kRound = 0x1.8p23F;  // adding it leaves the nearest integer in the low bits
  constexpr float kLog2e = 0x1.715476p+0F;
  constexpr float kLn2High = 0x1.62e4p-1F;  // 15 bits: n * kLn2High is exact
  constexpr float kLn2Low = 0x1.7f7d1cp-20F;
  x = x < -87.3F ? -87.3F : x;
  x = x > 87.3F ? 87.3F : x;
  const float shifted = x * kLog2e + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float p = 1.0F / 5040.0F;
  p = p * r + 1.0F / 720.0F;
  p = p * r + 1.0F / 120.0F;
  p = p * r + 1.0F / 24.0F;
  p = p * r + 1.0F / 6.0F;
  p = p * r + 0.5F;
  p = p * r + 1.0F;
  p = p * r + 1.0F;
  const std::uint32_t exponent = std::bit_cast<std::uint32_t>(shifted) + 127U;
  return p * std::bit_cast<float>(exponent << 23);
}

[[gnu::always_inline]] inline float sigmoid(float x) {
  return 1.0F / (1.0F + exponential(-x));
}

[[gnu::always_inline]] inline float gelu_tanh(float x) {
  // 0.5 (1 + tanh(u)) = sigmoid(2 u)
  constexpr float kTwoSqrtTwoOverPi = 1.5957691216057308F;
  return x * sigmoid(kTwoSqrtTwoOverPi * (x + 0.044715F * x * x * x));
}

/// std::llrint for |x| < 2^62 with vectorisable steps: a multiple of 2^32, then the exact rest.
[[gnu::always_inline]] inline std::int64_t nearest_integer(double x) {
  constexpr double kRound = 0x1.8p52;  // adding it leaves the nearest integer in the low bits
  constexpr auto kRoundBits = std::bit_cast<std::uint64_t>(kRound);
  const double shifted = x * 0x1p-32 + kRound;
  const double rest = (x - (shifted - kRound) * 0x1p32) + kRound;
  const std::uint64_t high = std::bit_cast<std::uint64_t>(shifted) - kRoundBits;
  const std::uint64_t low = std::bit_cast<std::uint64_t>(rest) - kRoundBits;
  return static_cast<std::int64_t>((high << 32) + low);
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
    total += lane_sum(count, [&](std::int64_t i) { return out[begin + i]; });
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
    total += lane_sum(count, [&](std::int64_t i) { return values[static_cast<std::size_t>(i)]; });
  }
  return total;
}

[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] float sum_of_squares(
    const float* x, std::int64_t n) {
  return lane_sum(n, [x](std::int64_t i) { return x[i] * x[i]; });
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
