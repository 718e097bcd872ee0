#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <numbers>
#include <utility>

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

/// How e^x is formed in a type: 2^n e^r with n = round(x / ln 2), Cody-Waite reduction, Taylor
/// polynomial of e^r. Adding kRound leaves the nearest integer in the low bits.
template <typename T>
struct Exponential;
template <>
struct Exponential<float> {
  using Bits = std::uint32_t;
  static constexpr float kRound = 0x1.8p23F;
  static constexpr float kLn2High = 0x1.62e4p-1F;  // 15 bits: n * kLn2High is exact
  static constexpr float kLn2Low = 0x1.7f7d1cp-20F;
  static constexpr float kLimit = 87.3F;
  static constexpr Bits kBias = 127;
  static constexpr int kMantissa = 23;
  static constexpr std::size_t kDegree = 7;
};
template <>
struct Exponential<double> {
  using Bits = std::uint64_t;
  static constexpr double kRound = 0x1.8p52;
  static constexpr double kLn2High = 0x1.62e42feep-1;  // 32 bits
  static constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
  static constexpr double kLimit = 708.0;
  static constexpr Bits kBias = 1023;
  static constexpr int kMantissa = 52;
  static constexpr std::size_t kDegree = 13;
};

/// 1 / n!
template <typename T>
constexpr T taylor_factor(std::size_t n) {
  T factorial{1};
  for (std::size_t i = 2; i <= n; ++i) factorial *= static_cast<T>(i);
  return T{1} / factorial;
}

/// The sum of r^n / n! for n up to that of the indices.
template <typename T, std::size_t... kIndex>
[[gnu::always_inline]] inline T taylor_sum(T r, std::index_sequence<kIndex...>) {
  constexpr std::size_t kDegree = sizeof...(kIndex);
  T sum = taylor_factor<T>(kDegree);
  ((sum = sum * r + taylor_factor<T>(kDegree - 1 - kIndex)), ...);
  return sum;
}

/// x is held in [-87.3, 87.3] as a float, [-708, 708] as a double; NaN stays NaN.
template <typename T>
[[gnu::always_inline]] inline T exponential(T x) {
  using E = Exponential<T>;
  x = x < -E::kLimit ? -E::kLimit : x;
  x = x > E::kLimit ? E::kLimit : x;
  const T shifted = x * std::numbers::log2e_v<T> + E::kRound;
  const T n = shifted - E::kRound;
  const T r = (x - n * E::kLn2High) - n * E::kLn2Low;
  const T p = taylor_sum(r, std::make_index_sequence<E::kDegree>{});
  const typename E::Bits exponent = std::bit_cast<typename E::Bits>(shifted) + E::kBias;
  return p * std::bit_cast<T>(exponent << E::kMantissa);
}

template <typename T>
[[gnu::always_inline]] inline T sigmoid(T x) {
  return T{1} / (T{1} + exponential(-x));
}

/// 0.5 x (1 + tanh(u)) = x sigmoid(gelu_argument(x)), with gelu_argument = 2 u.
template <typename T>
inline constexpr T kGeluFactor = static_cast<T>(1.5957691216057307117597842397375);  // 2 sqrt(2/pi)
template <typename T>
inline constexpr T kGeluCubic = static_cast<T>(0.044715);
template <typename T>
[[gnu::always_inline]] inline T gelu_argument(T x) {
  return kGeluFactor<T> * (x + kGeluCubic<T> * x * x * x);
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
