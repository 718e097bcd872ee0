#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace quern {

// Steps of the row kernels, inlined into every clone of a loop. Each is the same few operations at
// every vector width, so the clones give the same bits.

/// Sums run over this many lanes, folded in one order.
inline constexpr std::int64_t kSumLanes = 16;

/// Sum of term(i) over [0, n), each term a T.
template <typename T, typename Term>
[[gnu::always_inline]] inline T lane_sum(std::int64_t n, Term term) {
  std::array<T, kSumLanes> lanes{};
  std::int64_t i = 0;
  for (; i + kSumLanes <= n; i += kSumLanes) {
    for (std::int64_t lane = 0; lane < kSumLanes; ++lane) {
      lanes[static_cast<std::size_t>(lane)] += term(i + lane);
    }
  }
  for (; i < n; ++i) lanes[static_cast<std::size_t>(i % kSumLanes)] += term(i);
  for (std::size_t width = kSumLanes / 2; width > 0; width /= 2) {
    for (std::size_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}

/// e^x = 2^n e^r with n = round(x / ln 2): Cody-Waite reduction, Taylor polynomial of degree 7.
/// x is held in [-87.3, 87.3]; NaN stays NaN.
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

/// 0.5 x (1 + tanh(u)) = x sigmoid(gelu_argument(x)), with gelu_argument = 2 u.
inline constexpr float kGeluFactor = 1.5957691216057308F;  // 2 sqrt(2 / pi)
inline constexpr float kGeluCubic = 0.044715F;
[[gnu::always_inline]] inline float gelu_argument(float x) {
  return kGeluFactor * (x + kGeluCubic * x * x * x);
}

/// Modulo 2^64: a sum that overflows is noticed elsewhere, and thrown away.
[[gnu::always_inline]] inline std::int64_t wrapping_sum(std::int64_t a, std::int64_t b) {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(a) + static_cast<std::uint64_t>(b));
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

}  // namespace quern
