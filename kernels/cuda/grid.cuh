#pragma once

#include "kernels/cuda/numeric.cuh"
#include "kernels/solver.h"

/// Scale and zero of one group of one row. A warp works on a row; in the search each of its lanes
/// tries a candidate of its own. Every step rounds as on the CPU, without fused multiply-add.
namespace quern::gpu::grid {

using numeric::kWarp;

inline constexpr int kBlock = 128;  // columns whose errors spread by one matrix product
inline constexpr int kStrip = 16;   // columns whose feedback is summed at a time
inline constexpr int kStrips = kBlock / kStrip;

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

/// The range of a row, the same in all lanes.
__device__ inline Range join_range(Range range, const GridRule& rule) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    range.low = fmin(range.low, __shfl_xor_sync(kWholeWarp, range.low, offset));
    range.high = fmax(range.high, __shfl_xor_sync(kWholeWarp, range.high, offset));
  }
  range.sound = __all_sync(kWholeWarp, range.sound) != 0;
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

/// A candidate in units of the row's step.
struct Trial {
  float scale;
  float inverse;
  float low;
  float high;
};

__device__ inline Trial trial_of(const Grid& grid, double step, const GridRule& rule) {
  const auto scale = static_cast<float>(grid.scale / step);
  const auto zero = static_cast<float>(grid.zero);
  return {scale, __fdiv_rn(1.0F, scale), -zero, __fadd_rn(static_cast<float>(rule.top), -zero)};
}

/// What the target becomes.
__device__ inline float rounded(const Trial& trial, float target) {
  const float position = fminf(fmaxf(__fmul_rn(target, trial.inverse), trial.low), trial.high);
  return __fmul_rn(rintf(position), trial.scale);
}

__device__ inline float added_cost(float cost, float importance, float residual) {
  return __fadd_rn(cost, __fmul_rn(__fmul_rn(importance, residual), residual));
}

/// S of a group by strips of columns: strip t holds rows [0, 16 (t + 1)) of its 16 columns.
inline constexpr int kFeedbackFloats = kStrip * kStrip * kStrips * (kStrips + 1) / 2;
__device__ inline int strip_begin(int strip) {
  return kStrip * kStrip * strip * (strip + 1) / 2;
}

/// A group of a row in float32: shared memory, the same for all lanes.
struct GroupTrial {
  const float* targets;     ///< without the group's own feedback
  const float* weights;     ///< with feedback only
  const float* feedback;    ///< by strips
  const float* importance;  ///< of an error in each column
  int columns;
};

/// Rounds one strip whose sums hold the feedback of the columns before it.
__device__ inline void round_strip(const GroupTrial& group, const Trial& trial, int strip,
                                   float (&sums)[kStrip], float* errors, float& cost) {
  const float* feedback = group.feedback + strip_begin(strip) + strip * kStrip * kStrip;
#pragma unroll
  for (int c = 0; c < kStrip; ++c) {
    const int j = strip * kStrip + c;
    if (j >= group.columns) break;
    const float target = __fadd_rn(group.targets[j], sums[c]);
    const float value = rounded(trial, target);
    cost = added_cost(cost, group.importance[j], __fsub_rn(target, value));
    const float error = __fsub_rn(group.weights[j], value);
    errors[j] = error;
#pragma unroll
    for (int d = c + 1; d < kStrip; ++d) {
      sums[d] = __fadd_rn(sums[d], __fmul_rn(feedback[c * kStrip + d], error));
    }
  }
}

/// The cost of really solving the group with the lane's candidate.
__device__ inline float solved_cost(const GroupTrial& group, const Trial& trial) {
  float errors[kBlock];
  float cost = 0.0F;
  for (int strip = 0; strip * kStrip < group.columns; ++strip) {
    float sums[kStrip] = {};
    const auto* rows = reinterpret_cast<const float4*>(group.feedback + strip_begin(strip));
    for (int i = 0; i < strip * kStrip; ++i) {
      const float error = errors[i];
#pragma unroll
      for (int part = 0; part < kStrip / 4; ++part) {
        const float4 factor = rows[i * (kStrip / 4) + part];
        sums[4 * part] = __fadd_rn(sums[4 * part], __fmul_rn(factor.x, error));
        sums[4 * part + 1] = __fadd_rn(sums[4 * part + 1], __fmul_rn(factor.y, error));
        sums[4 * part + 2] = __fadd_rn(sums[4 * part + 2], __fmul_rn(factor.z, error));
        sums[4 * part + 3] = __fadd_rn(sums[4 * part + 3], __fmul_rn(factor.w, error));
      }
    }
    round_strip(group, trial, strip, sums, errors, cost);
  }
  return cost;
}

/// The cost of rounding the targets as they are.
__device__ inline float plain_cost(const GroupTrial& group, const Trial& trial) {
  float cost = 0.0F;
  for (int j = 0; j < group.columns; ++j) {
    const float target = group.targets[j];
    cost = added_cost(cost, group.importance[j], __fsub_rn(target, rounded(trial, target)));
  }
  return cost;
}

/// The candidate of least cost, the first of equal ones, in all lanes; the range itself without
/// one. cost(trial) is called by all lanes of the warp at once.
template <typename Cost>
__device__ Grid search(const Range& range, const GridRule& rule, Cost cost) {
  const Grid whole = grid_of(range, rule, 1.0);
  if (!rule.searched || !isfinite(whole.scale)) return whole;
  const double step = step_of(range, rule);
  float least = __int_as_float(0x7F800000);
  int best = rule.factors.count;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int first = 0; first < rule.factors.count; first += kWarp) {
    const int candidate = min(first + lane, rule.factors.count - 1);
    const Grid grid = grid_of(range, rule, factor_of(rule, candidate));
    const float own = cost(trial_of(grid, step, rule));
    if (own < least && isfinite(grid.scale)) {
      least = own;
      best = candidate;
    }
  }
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const float other = __shfl_xor_sync(kWholeWarp, least, offset);
    const int other_best = __shfl_xor_sync(kWholeWarp, best, offset);
    if (other < least || (other == least && other_best < best)) {
      least = other;
      best = other_best;
    }
  }
  return best == rule.factors.count ? whole : grid_of(range, rule, factor_of(rule, best));
}

}  // namespace quern::gpu::grid
