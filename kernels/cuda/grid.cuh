#pragma once

#include "kernels/cuda/numeric.cuh"
#include "kernels/solver.h"

/// Scale and zero of one group of one row. A warp works on four rows; in the search each of a row's
/// eight lanes tries four candidates at a time. Every step rounds as on the CPU.
namespace quern::gpu::grid {

using numeric::kWarp;

inline constexpr int kBlock = 128;  // columns whose errors spread by one matrix product
inline constexpr int kStrip = 16;   // columns whose feedback is summed at a time
inline constexpr int kStrips = kBlock / kStrip;

inline constexpr int kRowLanes = 8;  // lanes that share a row
inline constexpr int kWarpRows = kWarp / kRowLanes;
inline constexpr int kTrials = 4;  // candidates of one lane: they share what it loads
inline constexpr int kTrialsAtOnce = kRowLanes * kTrials;

__device__ inline int lane_of_thread() {
  return static_cast<int>(threadIdx.x) % kWarp;
}

/// Which of its row's lanes a thread is.
__device__ inline int part_of_thread() {
  return static_cast<int>(threadIdx.x) % kRowLanes;
}

/// Range factors tried: first, first - step, ...
struct Factors {
  double first;
  double step;
  int count;
};

inline Factors factors_for(int bits) {
  switch (bits) {
    case 2:
      return {1.1, 0.02, 42};
    case 3:
      return {1.08, 0.02, 32};
    case 4:
      return {1.05, 0.01, 32};
    case 5:
      return {1.04, 0.005, 32};
    case 6:
      return {1.02, 0.0025, 32};
    default:
      return {1.01, 0.00125, 32};
  }
}

/// GridSpec as kernels need it.
struct GridRule {
  double top;
  bool symmetric;
  bool searched;
  Factors factors;
};

inline GridRule make_rule(const GridSpec& spec) {
  return {static_cast<double>((1 << spec.bits) - 1), spec.symmetric,
          spec.scale_search == ScaleSearch::weighted, factors_for(spec.bits)};
}

/// value = scale * (code - zero), code in [0, top]. A scale that is not finite is beyond the
/// format.
struct Grid {
  double scale;
  double zero;
};

/// Low and high of a lane's values, with 0; sound: all were finite.
struct Range {
  double low = 0.0;
  double high = 0.0;
  bool sound = true;

  __device__ void take(double value) {
    low = value < low ? value : low;
    high = value > high ? value : high;
    sound = sound && isfinite(value);
  }
};

/// The range of a row, the same in all its lanes; called by the whole warp.
__device__ inline Range join_range(Range range, const GridRule& rule) {
  for (int offset = kRowLanes / 2; offset > 0; offset /= 2) {
    range.low = fmin(range.low, __shfl_xor_sync(kWholeWarp, range.low, offset));
    range.high = fmax(range.high, __shfl_xor_sync(kWholeWarp, range.high, offset));
  }
  const unsigned unsound = __ballot_sync(kWholeWarp, !range.sound);
  const int first_lane = lane_of_thread() - part_of_thread();
  range.sound = (unsound >> first_lane & ((1U << kRowLanes) - 1)) == 0;
  if (rule.symmetric) {
    range.high = fmax(-range.low, range.high);
    range.low = -range.high;
  }
  if (range.low == 0.0 && range.high == 0.0) {
    range.low = -1.0;
    range.high = 1.0;
  }
  if (!range.sound) range.high = nan("");
  return range;
}

__device__ inline double step_of(const Range& range, const GridRule& rule) {
  return (range.high - range.low) / rule.top;
}

__device__ inline double factor_of(const GridRule& rule, int candidate) {
  return __dsub_rn(rule.factors.first, __dmul_rn(candidate, rule.factors.step));
}

/// The grid that covers `factor` of the range; its scale is a float16 value, never zero.
__device__ inline Grid grid_of(const Range& range, const GridRule& rule, double factor) {
  const unsigned short bits = __half_as_ushort(__double2half(factor * step_of(range, rule)));
  const __half stored = __ushort_as_half(bits == 0 ? static_cast<unsigned short>(1) : bits);
  const double scale = static_cast<double>(__half2float(stored));
  if (rule.symmetric) return {scale, (rule.top + 1.0) / 2.0};
  const double zero = rint(-factor * range.low / scale);
  return {scale, fmin(fmax(zero, 0.0), rule.top)};
}

/// Adding it to a code gives a float whose lowest byte is that code.
inline constexpr float kCodeBase = 0x1p23F;
/// Adding and subtracting it rounds to the nearest integer, ties to even.
inline constexpr float kRounder = 0x1.8p23F;

/// A candidate in units of the row's step.
struct Trial {
  float scale;
  float inverse;
  float low;
  float high;
  float base;  ///< kCodeBase - low
};

__device__ inline Trial trial_of(const Grid& grid, double step, const GridRule& rule) {
  const auto scale = static_cast<float>(grid.scale / step);
  const auto zero = static_cast<float>(grid.zero);
  return {scale, __fdiv_rn(1.0F, scale), -zero, __fadd_rn(static_cast<float>(rule.top), -zero),
          __fadd_rn(kCodeBase, zero)};
}

/// What the target is rounded to, in steps.
__device__ inline float rounded(const Trial& trial, float target) {
  const float position = fminf(fmaxf(__fmul_rn(target, trial.inverse), trial.low), trial.high);
  return __fsub_rn(__fadd_rn(position, kRounder), kRounder);
}

/// value - steps * scale.
__device__ inline float residual_of(const Trial& trial, float value, float steps) {
  return __fmaf_rn(-steps, trial.scale, value);
}

__device__ inline float added_cost(float cost, float importance, float residual) {
  return __fmaf_rn(__fmul_rn(importance, residual), residual, cost);
}

/// The candidate of least cost, the first of equal ones, in all lanes of the row; the range itself
/// without one. try_all(trials, costs) is called by all lanes of the warp at once.
template <typename TryAll>
__device__ Grid search(const Range& range, const GridRule& rule, TryAll try_all) {
  const Grid whole = grid_of(range, rule, 1.0);
  const double step = step_of(range, rule);
  float least = __int_as_float(0x7F800000);
  int best = rule.factors.count;
#pragma unroll 1
  for (int first = 0; first < rule.factors.count; first += kTrialsAtOnce) {
    Trial trials[kTrials];
    float costs[kTrials];
    const int begin = first + part_of_thread();
    const int last = rule.factors.count - 1;
#pragma unroll
    for (int t = 0; t < kTrials; ++t) {
      const double factor = factor_of(rule, min(begin + t * kRowLanes, last));
      trials[t] = trial_of(grid_of(range, rule, factor), step, rule);
    }
    try_all(trials, costs);
#pragma unroll
    for (int t = 0; t < kTrials; ++t) {
      if (!(costs[t] < least) || !isfinite(trials[t].scale)) continue;
      least = costs[t];
      best = min(begin + t * kRowLanes, last);
    }
  }
  for (int offset = kRowLanes / 2; offset > 0; offset /= 2) {
    const float other = __shfl_xor_sync(kWholeWarp, least, offset);
    const int other_best = __shfl_xor_sync(kWholeWarp, best, offset);
    if (other < least || (other == least && other_best < best)) {
      least = other;
      best = other_best;
    }
  }
  if (best == rule.factors.count || !isfinite(whole.scale)) return whole;
  return grid_of(range, rule, factor_of(rule, best));
}

}  // namespace quern::gpu::grid
