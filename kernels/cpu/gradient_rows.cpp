#include "kernels/cpu/gradient_rows.h"

#include <algorithm>
#include <bit>

#include "kernels/cpu/vector_math.h"

namespace quern {
namespace {

/// activation(x) and its derivative.
struct Slope {
  float value;
  float derivative;
};

/// Beyond 100 one of a sigmoid and its complement is 0 but for the cut-off tail, which a larger
/// factor would bring back.
[[gnu::always_inline]] inline float hold(float x) {
  x = x < -100.0F ? -100.0F : x;
  return x > 100.0F ? 100.0F : x;
}

[[gnu::always_inline]] inline Slope silu(float x) {
  const float tail = exponential(-x);
  const float s = 1.0F / (1.0F + tail);
  // 1 - s = tail * s, without its cancellation.
  return {x * s, s + hold(x) * (tail * s) * s};
}

[[gnu::always_inline]] inline Slope relu(float x) {
  return {x < 0.0F ? 0.0F : x, x > 0.0F ? 1.0F : 0.0F};
}

[[gnu::always_inline]] inline Slope gelu_tanh(float x) {
  const float tail = exponential(-gelu_argument(x));
  const float s = 1.0F / (1.0F + tail);
  const float held = hold(x);
  const float inner = kGeluFactor * (1.0F + 3.0F * kGeluCubic * held * held);
  return {x * s, s + held * inner * (tail * s) * s};
}

template <Slope (*activate)(float)>
[[gnu::always_inline]] inline void gate_gradient(float* gate, float* up, const float* dh,
                                                 std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    const Slope slope = activate(gate[i]);
    gate[i] = dh[i] * up[i] * slope.derivative;
    up[i] = dh[i] * slope.value;
  }
}

}  // namespace

[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] float dot_row(
    const float* a, const float* b, std::int64_t n) {
  return lane_sum<float>(n, [a, b](std::int64_t i) { return a[i] * b[i]; });
}

[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] double exact_sum_of_squares(
    const float* x, std::int64_t n) {
  return lane_sum<double>(
      n, [x](std::int64_t i) { return static_cast<double>(x[i]) * static_cast<double>(x[i]); });
}

[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] void scale_row(const float* x,
                                                                                     float factor,
                                                                                     std::int64_t n,
                                                                                     float* out) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = x[i] * factor;
}

[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] void norm_gradient_row(
    const NormRow& row, const float* dy, std::int64_t n, float* dx) {
  const auto [x, weight, inverse] = row;
  const float product =
      lane_sum<float>(n, [=](std::int64_t i) { return dy[i] * weight[i] * x[i]; });
  const float pull = inverse * inverse * (product / static_cast<float>(n));
  for (std::int64_t i = 0; i < n; ++i) dx[i] = inverse * (dy[i] * weight[i] - x[i] * pull);
}

[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] void gate_gradient_row(
    float* gate, float* up, const float* dh, std::int64_t n, Activation activation) {
  switch (activation) {
    case Activation::silu:
      gate_gradient<silu>(gate, up, dh, n);
      break;
    case Activation::relu:
      gate_gradient<relu>(gate, up, dh, n);
      break;
    case Activation::gelu_tanh:
      gate_gradient<gelu_tanh>(gate, up, dh, n);
      break;
  }
}

[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] void softmax_gradient_row(
    const float* weights, float factor, float mean, std::int64_t n, float* slopes) {
  for (std::int64_t i = 0; i < n; ++i) slopes[i] = weights[i] * factor * (slopes[i] - mean);
}

[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] std::int64_t
add_fixed_point_squares(const float* gradients, const FixedPointSquares& format, std::int64_t n,
                        std::int64_t* sums) {
  const auto [scale, limit] = format;
  std::int64_t refused = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const auto gradient = static_cast<double>(gradients[i]);
    const double scaled = gradient * gradient * scale;
    const bool fits = scaled < limit;
    refused += fits ? 0 : 1;
    sums[i] = wrapping_sum(sums[i], nearest_integer(fits ? scaled : 0.0));
  }
  return refused;
}

[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] double row_max(
    const double* x, std::int64_t n) {
  // Bits of non-negative doubles are ordered like their values, and those of NaN are above.
  std::uint64_t largest = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    largest = std::max(largest, std::bit_cast<std::uint64_t>(x[i]));
  }
  return std::bit_cast<double>(largest);
}

[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] void values_of_row(
    const std::int64_t* sums, double scale, std::int64_t n, float* out) {
  for (std::int64_t i = 0; i < n; ++i) {
    out[i] = static_cast<float>(static_cast<double>(static_cast<float>(sums[i])) * scale);
  }
}

}  // namespace quern
