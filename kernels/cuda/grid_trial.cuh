#pragma once

#include "kernels/cuda/grid.cuh"

/// What candidates for the grid of a group cost, in float32. Every step rounds as on the CPU.
namespace quern::gpu::grid {

/// S of a group by strips of columns: strip t holds rows [0, 16 (t + 1)) of its 16 columns.
inline constexpr int kFeedbackFloats = kStrip * kStrip * kStrips * (kStrips + 1) / 2;
__device__ inline int strip_begin(int strip) {
  return kStrip * kStrip * strip * (strip + 1) / 2;
}

/// A group of a row in float32, in shared memory; zeros fill the last strip.
struct GroupTrial {
  const float* targets;     ///< without the group's own feedback
  const float* weights;     ///< with feedback only
  const float* feedback;    ///< by strips
  const float* importance;  ///< of an error in each column
  int columns;
};

/// Four codes of each of a lane's candidates, a byte each.
struct alignas(16) Codes {
  unsigned of_trial[kTrials];
};

/// sums[t][j] += factors[j] * errors[t] for columns j >= first of a strip.
__device__ inline void add_errors(const float* factors, int first, const float (&errors)[kTrials],
                                  float (&sums)[kTrials][kStrip]) {
#pragma unroll
  for (int part = 0; part < kStrip / 4; ++part) {
    const float4 four = reinterpret_cast<const float4*>(factors)[part];
    const float factor[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (4 * part + j < first) continue;
#pragma unroll
      for (int t = 0; t < kTrials; ++t) {
        sums[t][4 * part + j] = __fmaf_rn(factor[j], errors[t], sums[t][4 * part + j]);
      }
    }
  }
}

/// Adds the errors of four columns that were rounded to `codes`.
__device__ inline void add_rounded(const float* factors, const float* weights, const Codes& codes,
                                   const Trial (&trials)[kTrials], float (&sums)[kTrials][kStrip]) {
  const float4 four = *reinterpret_cast<const float4*>(weights);
  const float weight[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float errors[kTrials];
#pragma unroll
    for (int t = 0; t < kTrials; ++t) {
      const unsigned bits = __byte_perm(codes.of_trial[t], 0x4B000000U, 0x7540U + i);
      const float steps = __fsub_rn(__uint_as_float(bits), trials[t].base);
      errors[t] = residual_of(trials[t], weight[i], steps);
    }
    add_errors(factors + i * kStrip, 0, errors, sums);
  }
}

/// Rounds a strip of columns whose sums hold the feedback of the columns before it.
__device__ inline void round_strip(const GroupTrial& strip, const Trial (&trials)[kTrials],
                                   float (&sums)[kTrials][kStrip], Codes* out,
                                   float (&costs)[kTrials]) {
  Codes four{};
#pragma unroll
  for (int j = 0; j < kStrip; ++j) {
    float errors[kTrials];
#pragma unroll
    for (int t = 0; t < kTrials; ++t) {
      const float target = __fadd_rn(strip.targets[j], sums[t][j]);
      const float steps = rounded(trials[t], target);
      const float residual = residual_of(trials[t], target, steps);
      costs[t] = added_cost(costs[t], strip.importance[j], residual);
      errors[t] = residual_of(trials[t], strip.weights[j], steps);
      const unsigned code = __float_as_uint(__fadd_rn(steps, trials[t].base));
      const unsigned place = 0x3210U + ((4U - j % 4) << (4 * (j % 4)));
      four.of_trial[t] = __byte_perm(four.of_trial[t], code, place);
    }
    if (j % 4 == 3) out[j / 4] = four;
    add_errors(strip.feedback + j * kStrip, j + 1, errors, sums);
  }
}

/// The cost of really solving the group with each of the lane's candidates. An error is kept as
/// the code that caused it.
__device__ inline void solve_trials(const GroupTrial& group, const Trial (&trials)[kTrials],
                                    float (&costs)[kTrials]) {
  Codes codes[kBlock / 4];
#pragma unroll
  for (int t = 0; t < kTrials; ++t) costs[t] = 0.0F;
#pragma unroll 1
  for (int strip = 0; strip * kStrip < group.columns; ++strip) {
    float sums[kTrials][kStrip] = {};
    const float* factors = group.feedback + strip_begin(strip);
    const int fours = strip * (kStrip / 4);
    Codes next = codes[0];
#pragma unroll 1
    for (int i = 0; i < fours; ++i) {
      const Codes now = next;
      next = codes[min(i + 1, fours - 1)];
      add_rounded(factors + 4 * i * kStrip, group.weights + 4 * i, now, trials, sums);
    }
    const int begin = strip * kStrip;
    round_strip({group.targets + begin, group.weights + begin, factors + begin * kStrip,
                 group.importance + begin, kStrip},
                trials, sums, codes + fours, costs);
  }
}

/// Adds the cost of rounding one column as it is.
__device__ inline void add_column(const Trial (&trials)[kTrials], float target, float importance,
                                  float (&costs)[kTrials]) {
#pragma unroll
  for (int t = 0; t < kTrials; ++t) {
    const float residual = residual_of(trials[t], target, rounded(trials[t], target));
    costs[t] = added_cost(costs[t], importance, residual);
  }
}

/// The cost of rounding the targets as they are.
__device__ inline void plain_trials(const GroupTrial& group, const Trial (&trials)[kTrials],
                                    float (&costs)[kTrials]) {
#pragma unroll
  for (int t = 0; t < kTrials; ++t) costs[t] = 0.0F;
  for (int j = 0; j < group.columns; ++j) {
    add_column(trials, group.targets[j], group.importance[j], costs);
  }
}

}  // namespace quern::gpu::grid
