#include "kernels/cpu/row_kernels.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>

#include "kernels/cpu/vector_math.h"

namespace quern {
namespace {

// Lanes are emptied into a double this often, which bounds the error of long sums.
constexpr std::int64_t kBlock = 1024;

template <typename T>
using OrderedBits = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;

/// Maps the bits of floats to integers of the same order, and back. Integer maxima vectorise.
template <typename Bits>
[[gnu::always_inline]] inline Bits ordered_bits(Bits bits) {
  return bits < 0 ? bits ^ std::numeric_limits<Bits>::max() : bits;
}

template <typename T>
[[gnu::always_inline]] inline T gelu_tanh(T x) {
  return x * sigmoid(gelu_argument(x));
}

template <typename T>
[[gnu::always_inline]] inline void exp_block(const T* x, std::int64_t n, T shift, T* out) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = exponential(x[i] - shift);
}

}  // namespace

template <typename T>
[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] T row_max(const T* x,
                                                                                std::int64_t n) {
  using Bits = OrderedBits<T>;
  Bits largest = ordered_bits(std::bit_cast<Bits>(x[0]));
  for (std::int64_t i = 1; i < n; ++i) {
    largest = std::max(largest, ordered_bits(std::bit_cast<Bits>(x[i])));
  }
  return std::bit_cast<T>(ordered_bits(largest));
}

template <typename T>
[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] double exp_row(const T* x,
                                                                                     std::int64_t n,
                                                                                     T shift,
                                                                                     T* out) {
  double total = 0.0;
  for (std::int64_t begin = 0; begin < n; begin += kBlock) {
    const std::int64_t count = std::min(kBlock, n - begin);
    exp_block(x + begin, count, shift, out + begin);
    total += lane_sum<T>(count, [&](std::int64_t i) { return out[begin + i]; });
  }
  return total;
}

template <typename T>
[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] double exp_row_sum(
    const T* x, std::int64_t n, T shift) {
  std::array<T, kBlock> values;
  double total = 0.0;
  for (std::int64_t begin = 0; begin < n; begin += kBlock) {
    const std::int64_t count = std::min(kBlock, n - begin);
    exp_block(x + begin, count, shift, values.data());
    total +=
        lane_sum<T>(count, [&](std::int64_t i) { return values[static_cast<std::size_t>(i)]; });
  }
  return total;
}

template <typename T>
[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] T sum_of_squares(
    const T* x, std::int64_t n) {
  return lane_sum<T>(n, [x](std::int64_t i) { return x[i] * x[i]; });
}

template <typename T>
[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] void gate_row(
    T* gate, const T* up, std::int64_t n, Activation activation) {
  switch (activation) {
    case Activation::silu:
      for (std::int64_t i = 0; i < n; ++i) gate[i] = gate[i] * sigmoid(gate[i]) * up[i];
      break;
    case Activation::relu:
      for (std::int64_t i = 0; i < n; ++i) gate[i] = (gate[i] < T{0} ? T{0} : gate[i]) * up[i];
      break;
    case Activation::gelu_tanh:
      for (std::int64_t i = 0; i < n; ++i) gate[i] = gelu_tanh(gate[i]) * up[i];
      break;
  }
}

template <typename T>
[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] std::int64_t add_fixed_point(
    const FixedPointRow<T>& row, std::int64_t n, std::int64_t* sums) {
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

template <typename T>
[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] void add_squares(
    const T* x, std::int64_t n, double* sums) {
  for (std::int64_t i = 0; i < n; ++i) {
    sums[i] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  }
}

template float row_max(const float*, std::int64_t);
template double row_max(const double*, std::int64_t);
template double exp_row(const float*, std::int64_t, float, float*);
template double exp_row(const double*, std::int64_t, double, double*);
template double exp_row_sum(const float*, std::int64_t, float);
template double exp_row_sum(const double*, std::int64_t, double);
template float sum_of_squares(const float*, std::int64_t);
template double sum_of_squares(const double*, std::int64_t);
template void gate_row(float*, const float*, std::int64_t, Activation);
template void gate_row(double*, const double*, std::int64_t, Activation);
template std::int64_t add_fixed_point(const FixedPointRow<float>&, std::int64_t, std::int64_t*);
template std::int64_t add_fixed_point(const FixedPointRow<double>&, std::int64_t, std::int64_t*);
template void add_squares(const float*, std::int64_t, double*);
template void add_squares(const double*, std::int64_t, double*);

}  // namespace quern
