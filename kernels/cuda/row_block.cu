#include <algorithm>

#include "kernels/cuda/errors.h"
#include "kernels/cuda/grid.cuh"
#include "kernels/cuda/row_block.h"

namespace quern::gpu {
namespace {

using namespace numeric;
using namespace grid;

constexpr int kWarps = 8;  // rows of one thread block
constexpr int kThreads = kWarps * kWarp;
constexpr int kSlots = kBlock / kWarp;  // columns of a block that one lane owns: lane, lane + 32 ..
static_assert(kBlock == kBlockSteps);

/// What a thread block shares.
struct SharedGroup {
  alignas(16) float feedback[kFeedbackFloats];
  float importance[kBlock];
  float targets[kWarps][kBlock];
  float weights[kWarps][kBlock];
};

struct Larger {
  __device__ double operator()(double a, double b) const { return fmax(a, b); }
};

__device__ int lane_of_thread() {
  return static_cast<int>(threadIdx.x) % kWarp;
}

/// One lane's columns of a row inside a block.
struct LaneColumns {
  double weight[kSlots];
  double target[kSlots];
  double error[kSlots];
  int code[kSlots];
};

/// Adds error times row `step` of S to the columns of the block after that step.
__device__ void spread_in_block(const RowPanel& panel, const Block& block, std::int64_t step,
                                double error, double (&targets)[kSlots]) {
  const double* factors = panel.feedback + step * panel.columns + block.begin;
  const std::int64_t at = step - block.begin;
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    const std::int64_t column = slot * kWarp + lane_of_thread();
    if (column > at && column < block.end - block.begin) {
      targets[slot] += __ldg(factors + column) * error;
    }
  }
}

/// call(step, slot, owner) for steps [begin, end) of the block, slot a constant of the unrolling.
template <typename Call>
__device__ void for_steps(const Block& block, std::int64_t begin, std::int64_t end, Call call) {
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    const std::int64_t first = block.begin + slot * kWarp;
    const std::int64_t last = min(end, first + kWarp);
    for (std::int64_t step = max(begin, first); step < last; ++step) {
      call(step, slot, static_cast<int>(step - first));
    }
  }
}

/// What the group's columns would be rounded at if none of them caused an error.
__device__ void expect_group(const RowPanel& panel, const Block& block, const Piece& piece,
                             const LaneColumns& lane, double (&expected)[kSlots]) {
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) expected[slot] = lane.target[slot];
  if (panel.feedback == nullptr || piece.group_begin == 0) return;
  const Block group{block.begin, piece.end, 0, 0};
  for_steps(block, piece.begin, piece.end, [&](std::int64_t step, int slot, int owner) {
    const double drift = __shfl_sync(kWholeWarp, lane.weight[slot] - expected[slot], owner);
    spread_in_block(panel, group, step, drift, expected);
  });
}

/// The thread block's copy of S and of the importance of a group's columns.
__device__ void stage_group(const RowPanel& panel, const Piece& piece, SharedGroup& shared) {
  const int columns = static_cast<int>(piece.end - piece.begin);
  double largest = 0.0;
  for (int j = lane_of_thread(); j < columns && panel.importance != nullptr; j += kWarp) {
    largest = fmax(largest, panel.importance[piece.begin + j]);
  }
  largest = reduce_lanes(largest, Larger{});
  for (int j = static_cast<int>(threadIdx.x); j < columns; j += kThreads) {
    shared.importance[j] =
        largest > 0.0 ? static_cast<float>(panel.importance[piece.begin + j] / largest) : 1.0F;
  }
  if (panel.feedback == nullptr) return;
  for (int strip = 0; strip * kStrip < columns; ++strip) {
    float* out = shared.feedback + strip_begin(strip);
    for (int at = static_cast<int>(threadIdx.x); at < (strip + 1) * kStrip * kStrip;
         at += kThreads) {
      const int i = at / kStrip;
      const int j = strip * kStrip + at % kStrip;
      const bool inside = i < j && j < columns;
      const double* row = panel.feedback + (piece.begin + i) * panel.columns + piece.begin;
      out[at] = inside ? static_cast<float>(row[j]) : 0.0F;
    }
  }
}

/// Writes a grid of the row; lane 0 of its warp.
__device__ void store_grid(const RowPanel& panel, const Grid& grid, std::int64_t group,
                           std::int64_t row) {
  if (lane_of_thread() != 0) return;
  const std::int64_t at = group * panel.module_rows + panel.first_row + row;
  panel.scales[at] = __half_as_ushort(__double2half(grid.scale));
  panel.zeros[at] = static_cast<std::uint8_t>(grid.zero);
  if (isfinite(grid.scale)) return;
  atomicMin(reinterpret_cast<unsigned long long*>(panel.first_bad),
            static_cast<unsigned long long>(panel.first_row + row));
}

__device__ Grid stored_grid(const RowPanel& panel, std::int64_t group, std::int64_t row) {
  const std::int64_t at = group * panel.module_rows + panel.first_row + row;
  return {static_cast<double>(__half2float(__ushort_as_half(panel.scales[at]))),
          static_cast<double>(panel.zeros[at])};
}

/// The grid of a group that lies in the block, solved with each candidate where there is feedback.
__device__ Grid choose_grid(const RowPanel& panel, const Block& block, const Piece& piece,
                            const GridRule& rule, const LaneColumns& lane, SharedGroup& shared) {
  double expected[kSlots];
  expect_group(panel, block, piece, lane, expected);
  Range range;
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    const std::int64_t step = block.begin + slot * kWarp + lane_of_thread();
    if (step >= piece.begin && step < piece.end) range.take(expected[slot]);
  }
  range = join_range(range, rule);
  const double unit = 1.0 / step_of(range, rule);
  const bool solved = panel.feedback != nullptr;
  float* targets = shared.targets[threadIdx.x / kWarp];
  float* weights = shared.weights[threadIdx.x / kWarp];
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    const std::int64_t step = block.begin + slot * kWarp + lane_of_thread();
    if (step < piece.begin || step >= piece.end) continue;
    targets[step - piece.begin] =
        static_cast<float>((solved ? lane.target[slot] : expected[slot]) * unit);
    weights[step - piece.begin] = static_cast<float>(lane.weight[slot] * unit);
  }
  __syncwarp();
  const GroupTrial group{targets, weights, shared.feedback, shared.importance,
                         static_cast<int>(piece.end - piece.begin)};
  return search(range, rule, [&](const Trial& trial) {
    return solved ? solved_cost(group, trial) : plain_cost(group, trial);
  });
}

/// codes = clamp(round(target / scale) + zero, 0, top) with ties to even, one step after another.
__device__ void round_piece(const RowPanel& panel, const Block& block, const Piece& piece,
                            const Grid& grid, double top, LaneColumns& lane) {
  for_steps(block, piece.begin, piece.end, [&](std::int64_t step, int slot, int owner) {
    const double weight = __shfl_sync(kWholeWarp, lane.weight[slot], owner);
    const double target = __shfl_sync(kWholeWarp, lane.target[slot], owner);
    const double position = fmin(fmax(target / grid.scale, -grid.zero), top - grid.zero);
    const double steps = rint(position);
    const double error = __dsub_rn(weight, __dmul_rn(steps, grid.scale));
    if (lane_of_thread() == owner) {
      lane.error[slot] = error;
      lane.code[slot] = static_cast<int>(steps + grid.zero);
    }
    if (panel.feedback != nullptr) spread_in_block(panel, block, step, error, lane.target);
  });
}

/// One warp per row, kWarps rows per thread block; a lane owns every 32nd column of the block.
__global__ void __launch_bounds__(kThreads)
    round_block_kernel(RowPanel panel, Block block, GridRule rule) {
  __shared__ SharedGroup shared;
  const std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  const bool active = row < panel.rows;
  const std::int64_t width = block.end - block.begin;
  LaneColumns lane{};
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    const std::int64_t column = slot * kWarp + lane_of_thread();
    if (!active || column >= width) continue;
    lane.weight[slot] = panel.weights[row * panel.columns + block.begin + column];
    lane.target[slot] = panel.targets[row * panel.columns + block.begin + column];
  }
  for (std::int64_t i = 0; i < block.pieces; ++i) {
    const Piece piece = panel.pieces[block.first_piece + i];
    const bool whole = piece.begin == piece.group_begin && piece.end == piece.group_end;
    if (whole && rule.searched) {
      __syncthreads();  // the group before may still be read
      stage_group(panel, piece, shared);
      __syncthreads();
    }
    if (!active) continue;
    const Grid grid = whole ? choose_grid(panel, block, piece, rule, lane, shared)
                            : stored_grid(panel, piece.index, row);
    if (whole) store_grid(panel, grid, piece.index, row);
    round_piece(panel, block, piece, grid, rule.top, lane);
  }
  if (!active) return;
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    const std::int64_t column = slot * kWarp + lane_of_thread();
    if (column >= width) continue;
    panel.errors[row * kBlock + column] = lane.error[slot];
    const std::int64_t k = panel.order[block.begin + column];
    panel.codes[(panel.first_row + row) * panel.columns + k] =
        static_cast<std::uint8_t>(lane.code[slot]);
  }
}

/// Thread x: one step; block y: rows y, y + gridDim.y, ...
template <typename T>
__global__ void load_kernel(RowPanel panel, const T* weight, double* weights) {
  const std::int64_t step = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (step >= panel.columns) return;
  const std::int64_t k = panel.order[step];
  for (std::int64_t row = blockIdx.y; row < panel.rows; row += gridDim.y) {
    const double value = to_double(weight[(panel.first_row + row) * panel.columns + k]);
    weights[row * panel.columns + step] = value;
    panel.targets[row * panel.columns + step] = value;
  }
}

/// Thread x: one step of the group; block y: rows y, y + gridDim.y, ...
__global__ void begin_expected_kernel(RowPanel panel, Piece group) {
  const std::int64_t length = group.group_end - group.group_begin;
  const std::int64_t step = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (step >= length) return;
  for (std::int64_t row = blockIdx.y; row < panel.rows; row += gridDim.y) {
    panel.expected[row * length + step] =
        panel.targets[row * panel.columns + group.group_begin + step];
  }
}

/// One warp per row; a lane owns every 32nd of the block's columns.
__global__ void drift_kernel(RowPanel panel, Piece group, Block block) {
  const std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (row >= panel.rows) return;
  const std::int64_t length = group.group_end - group.group_begin;
  const std::int64_t width = block.end - block.begin;
  const double* weights = panel.weights + row * panel.columns + block.begin;
  double* in_group = panel.expected + row * length + (block.begin - group.group_begin);
  double expected[kSlots] = {};
  double weight[kSlots] = {};
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    const std::int64_t column = slot * kWarp + lane_of_thread();
    if (column >= width) continue;
    expected[slot] = in_group[column];
    weight[slot] = weights[column];
  }
  for_steps(block, block.begin, block.end, [&](std::int64_t step, int slot, int owner) {
    const double drift = __shfl_sync(kWholeWarp, weight[slot] - expected[slot], owner);
    spread_in_block(panel, block, step, drift, expected);
  });
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    const std::int64_t column = slot * kWarp + lane_of_thread();
    if (column >= width) continue;
    in_group[column] = expected[slot];
    panel.errors[row * kBlock + column] = weight[slot] - expected[slot];
  }
}

/// One warp per row; in the search a lane tries its candidate on 32 columns after another.
__global__ void large_group_kernel(RowPanel panel, Piece group, GridRule rule) {
  const std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (row >= panel.rows) return;
  const std::int64_t length = group.group_end - group.group_begin;
  const double* expected = panel.expected + row * length;
  const double* importance =
      panel.importance == nullptr ? nullptr : panel.importance + group.group_begin;
  Range range;
  double largest = 0.0;
  for (std::int64_t j = lane_of_thread(); j < length; j += kWarp) {
    range.take(expected[j]);
    if (importance != nullptr) largest = fmax(largest, importance[j]);
  }
  largest = reduce_lanes(largest, Larger{});
  range = join_range(range, rule);
  const double unit = 1.0 / step_of(range, rule);
  const Grid grid = search(range, rule, [&](const Trial& trial) {
    float cost = 0.0F;
    for (std::int64_t begin = 0; begin < length; begin += kWarp) {
      const std::int64_t j = begin + lane_of_thread();
      const bool inside = j < length;
      const float own_target = inside ? static_cast<float>(expected[j] * unit) : 0.0F;
      const float own_importance =
          inside && largest > 0.0 ? static_cast<float>(importance[j] / largest) : 1.0F;
      const int count = static_cast<int>(min(std::int64_t{kWarp}, length - begin));
      for (int i = 0; i < count; ++i) {
        const float target = __shfl_sync(kWholeWarp, own_target, i);
        const float weight = __shfl_sync(kWholeWarp, own_importance, i);
        cost = added_cost(cost, weight, __fsub_rn(target, rounded(trial, target)));
      }
    }
    return cost;
  });
  store_grid(panel, grid, group.index, row);
}

dim3 grid_over(std::int64_t across, std::int64_t down) {
  return {block_count(across, kThreads),
          static_cast<unsigned>(std::min<std::int64_t>(down, 65535))};
}

}  // namespace

void load_panel(CudaContext& context, const RowPanel& panel, ConstTensorView weight,
                double* weights) {
  with_plain_float(weight.dtype, [&](auto element) {
    using T = typename decltype(element)::Type;
    load_kernel<<<grid_over(panel.columns, panel.rows), kThreads, 0, context.stream>>>(
        panel, weight.as<T>(), weights);
  });
  check_launch("quantize");
}

void round_block(CudaContext& context, const RowPanel& panel, const Block& block,
                 const GridSpec& grid) {
  round_block_kernel<<<block_count(panel.rows, kWarps), kThreads, 0, context.stream>>>(
      panel, block, make_rule(grid));
  check_launch("quantize");
}

void begin_expected(CudaContext& context, const RowPanel& panel, const Piece& group) {
  const std::int64_t length = group.group_end - group.group_begin;
  begin_expected_kernel<<<grid_over(length, panel.rows), kThreads, 0, context.stream>>>(panel,
                                                                                        group);
  check_launch("quantize");
}

void drift_block(CudaContext& context, const RowPanel& panel, const Piece& group,
                 std::int64_t begin, std::int64_t end) {
  drift_kernel<<<block_count(panel.rows, kWarps), kThreads, 0, context.stream>>>(
      panel, group, Block{begin, end, 0, 0});
  check_launch("quantize");
}

void search_large_group(CudaContext& context, const RowPanel& panel, const Piece& group,
                        const GridSpec& grid) {
  large_group_kernel<<<block_count(panel.rows, kWarps), kThreads, 0, context.stream>>>(
      panel, group, make_rule(grid));
  check_launch("quantize");
}

}  // namespace quern::gpu
