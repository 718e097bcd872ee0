#include "kernels/cpu/row_lanes.h"

#include <algorithm>
#include <cmath>

namespace quern {
namespace {

/// 1.5 * 2^mantissa: adding and subtracting it rounds to the nearest integer, ties to even.
template <typename T>
inline constexpr T kRounder = sizeof(T) == sizeof(double) ? static_cast<T>(0x1.8p52)
                                                          : static_cast<T>(0x1.8p23);

/// column += sum over i < count of factors[i] * errors[i]. The sums of a chunk of lanes stay in
/// registers. Fused by name, not by contraction: every processor rounds once.
template <typename T>
[[gnu::always_inline]] inline void accumulate(const T* factors, std::int64_t count, const T* errors,
                                              T* column) {
  constexpr std::int64_t kChunk = 256 / static_cast<std::int64_t>(sizeof(T));
  for (std::int64_t begin = 0; begin < kLanes; begin += kChunk) {
    T sums[kChunk] = {};
    for (std::int64_t i = 0; i < count; ++i) {
      const T factor = factors[i];
      const T* error = errors + i * kLanes + begin;
      for (std::int64_t lane = 0; lane < kChunk; ++lane) {
        sums[lane] = std::fma(factor, error[lane], sums[lane]);
      }
    }
    for (std::int64_t lane = 0; lane < kChunk; ++lane) column[begin + lane] += sums[lane];
  }
}

/// round(clamp(x)) = clamp(round(x)) because both bounds are integers.
template <typename T>
[[gnu::always_inline]] inline T rounded_code(T target, T scale, T zero, T top) {
  const T position = std::min(std::max(target / scale, -zero), top - zero);
  return (position + kRounder<T>)-kRounder<T>;
}

}  // namespace

[[gnu::target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")]] void add_feedback(
    const double* factors, std::int64_t count, const double* errors, double* column) {
  accumulate(factors, count, errors, column);
}

[[gnu::target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")]] void round_column(
    const double* target, const double* weight, const LaneGrid<double>& grid, double* error,
    std::uint8_t* codes) {
  for (std::int64_t lane = 0; lane < kLanes; ++lane) {
    const auto i = static_cast<std::size_t>(lane);
    const double step = rounded_code(target[lane], grid.scale[i], grid.zero[i], grid.top);
    error[lane] = weight[lane] - step * grid.scale[i];
    codes[lane] = static_cast<std::uint8_t>(static_cast<int>(step + grid.zero[i]));
  }
}

[[gnu::target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")]] void trial_cost(
    const LaneTrial& trial, const LaneGrid<float>& grid, float* cost) {
  alignas(64) float inverse[kLanes];
  alignas(64) float target[kLanes];
  alignas(64) float sum[kLanes] = {};
  for (std::int64_t lane = 0; lane < kLanes; ++lane) {
    inverse[lane] = 1.0F / grid.scale[static_cast<std::size_t>(lane)];
  }
  for (std::int64_t j = 0; j < trial.columns; ++j) {
    const float* base = trial.targets + j * kLanes;
    for (std::int64_t lane = 0; lane < kLanes; ++lane) target[lane] = base[lane];
    if (trial.feedback != nullptr) {
      accumulate(trial.feedback + j * trial.columns, j, trial.errors, target);
    }
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      const auto i = static_cast<std::size_t>(lane);
      const float low = -grid.zero[i];
      const float position = std::min(std::max(target[lane] * inverse[lane], low), grid.top + low);
      const float step = (position + kRounder<float>)-kRounder<float>;
      const float residual = std::fma(-step, grid.scale[i], target[lane]);
      sum[lane] = std::fma(trial.importance[j] * residual, residual, sum[lane]);
      target[lane] = step;
    }
    if (trial.feedback == nullptr) continue;
    const float* weight = trial.weights + j * kLanes;
    float* error = trial.errors + j * kLanes;
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      error[lane] =
          std::fma(-target[lane], grid.scale[static_cast<std::size_t>(lane)], weight[lane]);
    }
  }
  for (std::int64_t lane = 0; lane < kLanes; ++lane) cost[lane] = sum[lane];
}

[[gnu::target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")]] void column_range(
    const double* targets, std::int64_t columns, double* low, double* high) {
  alignas(64) double probe[kLanes] = {};
  for (std::int64_t lane = 0; lane < kLanes; ++lane) low[lane] = high[lane] = 0.0;
  for (std::int64_t j = 0; j < columns; ++j) {
    const double* column = targets + j * kLanes;
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      low[lane] = std::min(low[lane], column[lane]);
      high[lane] = std::max(high[lane], column[lane]);
      probe[lane] += column[lane] * 0.0;  // NaN once a value is infinite or NaN
    }
  }
  for (std::int64_t lane = 0; lane < kLanes; ++lane) high[lane] += probe[lane];
}

}  // namespace quern
