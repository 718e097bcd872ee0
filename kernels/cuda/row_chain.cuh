#pragma once

#include "kernels/cuda/grid_trial.cuh"
#include "kernels/cuda/row_block.cuh"

/// The steps of a block in float64, one after another. A thread block solves 16 rows, a warp four
/// of them and a lane, like the seven beside it, one. Columns count from the block's first step.
namespace quern::gpu::chain {

using namespace numeric;
using namespace grid;

inline constexpr int kWarps = 4;
inline constexpr int kThreads = kWarps * kWarp;
inline constexpr int kRows = kWarps * kWarpRows;  // of one thread block
static_assert(kBlock == kBlockSteps && kThreads == kBlock, "a thread stages one column");

// Rows are padded so that the lanes of a warp's rows meet different banks.
inline constexpr int kValueStride = kBlock + 8;
inline constexpr int kTrialStride = kBlock + 4;

/// What the steps of a piece need.
struct ChainOperands {
  double weights[kRows][kValueStride];
  double feedback[kStrips][kStrip][kStrip];  ///< S of each strip of the piece
  double errors[kRows][kStrip];              ///< of the strip solved last
};

/// The steps and the scale search take turns.
union alignas(16) Operands {
  ChainOperands chain;
  float feedback[kFeedbackFloats];
};

/// The rows of a warp as the scale search sees them, in float32.
struct alignas(16) TrialRows {
  float targets[kWarpRows][kTrialStride];
  float weights[kWarpRows][kTrialStride];
};

/// The range of a group is taken from what is expected, then the search takes its place.
union alignas(16) WarpScratch {
  double expected[kWarpRows][kValueStride];
  TrialRows trial;
};

/// What a thread block shares.
struct alignas(16) SharedBlock {
  Operands operands;
  double values[kRows][kValueStride];  ///< targets, and errors of columns that were rounded
  WarpScratch scratch[kWarps];
  float importance[kBlock];
  std::uint8_t codes[kRows][kBlock];
};

__device__ inline int warp_of_thread() {
  return static_cast<int>(threadIdx.x) / kWarp;
}

static_assert(kChunkRows % kRows == 0, "a thread block's rows are of one module");

/// The thread's row inside its thread block.
__device__ inline int row_of_thread() {
  return static_cast<int>(threadIdx.x) / kRowLanes;
}

/// Columns [begin, end), whose errors reach the columns before `limit`.
struct Chain {
  int begin;
  int end;
  int limit;
};

/// A column of the strip at hand; of the lanes of a row, one owns it and stores.
struct Column {
  int index;
  bool owned;
};

/// What a step makes of a column: the error that is felt later, and what the column becomes.
struct Outcome {
  double error;
  double value;
};

/// factors[i] = rows[i * stride], 0 from `count` on.
__device__ inline void read_factors(const double* rows, int stride, int count,
                                    double (&factors)[kStrip]) {
#pragma unroll
  for (int i = 0; i < kStrip; ++i) factors[i] = i < count ? __ldg(rows + i * stride) : 0.0;
}

/// Adds the errors of a strip, times S, to column `column` of the warp's rows.
__device__ inline void add_strip(const double (&factors)[kStrip], const double (*errors)[kStrip],
                                 int column, double (*values)[kValueStride]) {
  double sums[kWarpRows];
#pragma unroll
  for (int row = 0; row < kWarpRows; ++row) sums[row] = values[row][column];
#pragma unroll
  for (int i = 0; i < kStrip; i += 2) {
#pragma unroll
    for (int row = 0; row < kWarpRows; ++row) {
      const double2 two = *reinterpret_cast<const double2*>(&errors[row][i]);
      sums[row] = __fma_rn(factors[i], two.x, sums[row]);
      sums[row] = __fma_rn(factors[i + 1], two.y, sums[row]);
    }
  }
#pragma unroll
  for (int row = 0; row < kWarpRows; ++row) values[row][column] = sums[row];
}

/// Solves the columns of a strip; call(column, target, weight) -> Outcome.
template <typename Call>
__device__ void solve_strip(ChainOperands& operands, const double (&factors)[kStrip][kStrip],
                            int begin, int count, double* values, Call call) {
  const double* weights = operands.weights[row_of_thread()];
  double* errors = operands.errors[row_of_thread()];
  double targets[kStrip];
#pragma unroll
  for (int j = 0; j < kStrip; ++j) targets[j] = j < count ? values[begin + j] : 0.0;
  __syncwarp();  // all have read what the owners overwrite
#pragma unroll
  for (int j = 0; j < kStrip; ++j) {
    const bool inside = j < count;
    const bool owner = part_of_thread() == j % kRowLanes;
    const Column column{begin + j, inside && owner};
    const Outcome outcome = call(column, targets[j], inside ? weights[begin + j] : 0.0);
    if (owner) errors[j] = outcome.error;
    if (column.owned) values[column.index] = outcome.value;
#pragma unroll
    for (int d = j + 1; d < kStrip; ++d) {
      targets[d] = __fma_rn(factors[j][d], outcome.error, targets[d]);
    }
  }
}

/// Takes the warp's rows through a chain, whose operands are staged. `values` are those rows;
/// `origin` is the step of column 0. Called by whole warps, which need not meet.
template <typename Call>
__device__ void solve_chain(const RowPanel& panel, std::int64_t origin, const Chain& chain,
                            ChainOperands& operands, double (*values)[kValueStride], Call call) {
  const bool felt = panel.feedback != nullptr;
  double* own = values[lane_of_thread() / kRowLanes];
  const auto* errors = operands.errors + warp_of_thread() * kWarpRows;
#pragma unroll 1
  for (int begin = chain.begin; begin < chain.end; begin += kStrip) {
    const int count = min(kStrip, chain.end - begin);
    const int limit = felt ? chain.limit : 0;
    const double* rows = panel.feedback + (origin + begin) * panel.columns + origin;
    const auto stride = static_cast<int>(panel.columns);
    int column = begin + count + lane_of_thread();
    double ahead[kStrip];
    read_factors(rows + column, stride, column < limit ? count : 0, ahead);
    const int strip = (begin - chain.begin) / kStrip;
    solve_strip(operands, operands.feedback[strip], begin, count, own, call);
    __syncwarp();
#pragma unroll 1
    for (; column < limit; column += kWarp) {
      double factors[kStrip];
#pragma unroll
      for (int i = 0; i < kStrip; ++i) factors[i] = ahead[i];
      const int next = column + kWarp;
      read_factors(rows + next, stride, next < limit ? count : 0, ahead);
      add_strip(factors, errors, column, values);
    }
    __syncwarp();
  }
}

/// Copies the weights of columns [begin, end) and S of their strips. Called by all threads.
__device__ inline void stage_chain(const RowPanel& panel, std::int64_t origin, int begin, int end,
                                   ChainOperands& operands) {
  const std::int64_t first_row = std::int64_t{blockIdx.x} * kRows;
  const int own = begin + static_cast<int>(threadIdx.x);
  const double* weights = panel.weights + first_row * panel.columns + origin + own;
  if (own < end) {
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      operands.weights[row][own] = weights[row * panel.columns];
    }
  }
  const std::int64_t first = origin + begin;
  const double* corner = panel.feedback + first * panel.columns + first;
  const auto stride = static_cast<int>(panel.columns);
  const int elems = (end - begin + kStrip - 1) / kStrip * kStrip * kStrip;
  double* out = &operands.feedback[0][0][0];
#pragma unroll 8
  for (int at = static_cast<int>(threadIdx.x); at < elems; at += kThreads) {
    const int i = at / kStrip;  // row, then column, of S in the piece
    const int j = i / kStrip * kStrip + at % kStrip;
    const bool inside = panel.feedback != nullptr && i < j && begin + j < end;
    out[at] = inside ? __ldg(corner + (i * stride + j)) : 0.0;
  }
}

}  // namespace quern::gpu::chain
