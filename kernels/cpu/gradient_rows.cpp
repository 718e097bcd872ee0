#include "kernels/cpu/gradient_rows.h"

#include <algorithm>
#include <bit>
#include <type_traits>

#include "kernels/cpu/vector_math.h"

namespace quern {
namespace {

/// activation(x) and its derivative.
template <typename T>
struct Slope {
  T value;
  T derivative;
};

/// Beyond it one of a sigmoid and its complement is 0 but for the cut-off tail, which a larger
/// factor would bring back.
template <typename T>
inline constexpr T kSaturation = std::is_same_v<T, double> ? 710 : 100;

template <typename T>
[[gnu::always_inline]] inline T hold(T x) {
  x = x < -kSaturation<T> ? -kSaturation<T> : x;
  return x > kSaturation<T> ? kSaturation<T> : x;
}

struct Silu {
  template <typename T>
  [[gnu::always_inline]] Slope<T> operator()(T x) const {
    const T tail = exponential(-x);
    const T s = T{1} / (T{1} + tail);
    // 1 - s = tail * s, without its cancellation.
    return {x * s, s + hold(x) * (tail * s) * s};
  }
};

struct Relu {
  template <typename T>
  [[gnu::always_inline]] Slope<T> operator()(T x) const {
    return {x < T{0} ? T{0} : x, x > T{0} ? T{1} : T{0}};
  }
};

struct GeluTanh {
  template <typename T>
  [[gnu::always_inline]] Slope<T> operator()(T x) const {
    const T tail = exponential(-gelu_argument(x));
    const T s = T{1} / (T{1} + tail);
    const T held = hold(x);
    const T inner = kGeluFactor<T> * (T{1} + T{3} * kGeluCubic<T> * held * held);
    return {x * s, s + held * inner * (tail * s) * s};
  }
};

template <typename Activate, typename T>
[[gnu::always_inline]] inline void gate_gradient(Activate activate, T* gate, T* up, const T* dh,
                                                 std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    const Slope<T> slope = activate(gate[i]);
    gate[i] = dh[i] * up[i] * slope.derivative;
    up[i] = dh[i] * slope.value;
  }
}

}  // namespace

template <typename T>
[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] T dot_row(const T* a,
                                                                                const T* b,
                                                                                std::int64_t n) {
  return lane_sum<T>(n, [a, b](std::int64_t i) { return a[i] * b[i]; });
}

template <typename T>
[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] double exact_sum_of_squares(
    const T* x, std::int64_t n) {
  return lane_sum<double>(
      n, [x](std::int64_t i) { return static_cast<double>(x[i]) * static_cast<double>(x[i]); });
}

template <typename T>
[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] void scale_row(const T* x,
                                                                                     T factor,
                                                                                     std::int64_t n,
                                                                                     T* out) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = x[i] * factor;
}

template <typename T>
[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] void norm_gradient_row(
    const NormRow<T>& row, const T* dy, std::int64_t n, T* dx) {
  const auto [x, weight, inverse] = row;
  const T product = lane_sum<T>(n, [=](std::int64_t i) { return dy[i] * weight[i] * x[i]; });
  const T pull = inverse * inverse * (product / static_cast<T>(n));
  for (std::int64_t i = 0; i < n; ++i) dx[i] = inverse * (dy[i] * weight[i] - x[i] * pull);
}

template <typename T>
[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] void gate_gradient_row(
    T* gate, T* up, const T* dh, std::int64_t n, Activation activation) {
  switch (activation) {
    case Activation::silu:
      gate_gradient(Silu{}, gate, up, dh, n);
      break;
    case Activation::relu:
      gate_gradient(Relu{}, gate, up, dh, n);
      break;
    case Activation::gelu_tanh:
      gate_gradient(GeluTanh{}, gate, up, dh, n);
      break;
  }
}

template <typename T>
[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] void softmax_gradient_row(
    const T* weights, T factor, T mean, std::int64_t n, T* slopes) {
  for (std::int64_t i = 0; i < n; ++i) slopes[i] = weights[i] * factor * (slopes[i] - mean);
}

template <typename T>
[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] std::int64_t
add_fixed_point_squares(const T* gradients, const FixedPointSquares& format, std::int64_t n,
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

[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] double largest_square(
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

template float dot_row(const float*, const float*, std::int64_t);
template double dot_row(const double*, const double*, std::int64_t);
template double exact_sum_of_squares(const float*, std::int64_t);
template double exact_sum_of_squares(const double*, std::int64_t);
template void scale_row(const float*, float, std::int64_t, float*);
template void scale_row(const double*, double, std::int64_t, double*);
template void norm_gradient_row(const NormRow<float>&, const float*, std::int64_t, float*);
template void norm_gradient_row(const NormRow<double>&, const double*, std::int64_t, double*);
template void gate_gradient_row(float*, float*, const float*, std::int64_t, Activation);
template void gate_gradient_row(double*, double*, const double*, std::int64_t, Activation);
template void softmax_gradient_row(const float*, float, float, std::int64_t, float*);
template void softmax_gradient_row(const double*, double, double, std::int64_t, double*);
template std::int64_t add_fixed_point_squares(const float*, const FixedPointSquares&, std::int64_t,
                                              std::int64_t*);
template std::int64_t add_fixed_point_squares(const double*, const FixedPointSquares&, std::int64_t,
                                              std::int64_t*);

}  // namespace quern
