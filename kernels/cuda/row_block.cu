#include <algorithm>
#include <type_traits>

#include "kernels/cuda/errors.h"
#include "kernels/cuda/row_block.cuh"
#include "kernels/cuda/row_chain.cuh"

namespace quern::gpu {
namespace {

using namespace chain;

constexpr int kFlatThreads = 256;  // of kernels that give each element a thread

struct Larger {
  __device__ double operator()(double a, double b) const { return fmax(a, b); }
};

__device__ std::int64_t first_panel_row() {
  return std::int64_t{blockIdx.x} * kRows;
}

__device__ std::int64_t panel_row() {
  return first_panel_row() + row_of_thread();
}

/// The module of the thread block's rows.
__device__ const PanelMember& member_of_block(const RowPanel& panel) {
  int member = 0;
  while (member + 1 < panel.member_count && first_panel_row() >= panel.members[member + 1].begin) {
    ++member;
  }
  return panel.members[member];
}

/// Columns of a piece inside its block.
struct Span {
  int begin;
  int end;

  __device__ int count() const { return end - begin; }
};

__device__ Span span_of(const Block& block, const Piece& piece) {
  return {static_cast<int>(piece.begin - block.begin), static_cast<int>(piece.end - block.begin)};
}

/// Copies S and the importance of a group's columns. Called by all threads.
__device__ void stage_search(const RowPanel& panel, const Piece& piece, SharedBlock& shared) {
  const int columns = static_cast<int>(piece.end - piece.begin);
  double largest = 0.0;
  for (int j = lane_of_thread(); j < columns && panel.importance != nullptr; j += kWarp) {
    largest = fmax(largest, panel.importance[piece.begin + j]);
  }
  largest = reduce_lanes(largest, Larger{});
  const int own = static_cast<int>(threadIdx.x);
  float importance = own < columns ? 1.0F : 0.0F;
  if (own < columns && largest > 0.0) {
    importance = static_cast<float>(panel.importance[piece.begin + own] / largest);
  }
  shared.importance[own] = importance;
  if (panel.feedback == nullptr) return;
  const double* corner = panel.feedback + piece.begin * panel.columns + piece.begin;
  const auto stride = static_cast<int>(panel.columns);
  for (int strip = 0; strip * kStrip < columns; ++strip) {
    const int j = strip * kStrip + own % kStrip;
    float* out = shared.operands.feedback + strip_begin(strip);
#pragma unroll 8
    for (int i = own / kStrip; i < (strip + 1) * kStrip; i += kThreads / kStrip) {
      const bool inside = i < j && j < columns;
      const double factor = inside ? __ldg(corner + (i * stride + j)) : 0.0;
      out[i * kStrip + j % kStrip] = static_cast<float>(factor);
    }
  }
}

/// Writes a grid of the row.
__device__ void store_grid(const PanelMember& member, const Grid& grid, std::int64_t group) {
  if (part_of_thread() != 0 || panel_row() >= member.end) return;
  const std::int64_t row = member.first_row + panel_row() - member.begin;
  const std::int64_t at = group * member.module_rows + row;
  member.scales[at] = __half_as_ushort(__double2half(grid.scale));
  member.zeros[at] = static_cast<std::uint8_t>(grid.zero);
  if (isfinite(grid.scale)) return;
  atomicMin(reinterpret_cast<unsigned long long*>(member.first_bad),
            static_cast<unsigned long long>(row));
}

/// Rows beyond the module's have the grid of its last one.
__device__ Grid stored_grid(const PanelMember& member, std::int64_t group) {
  const std::int64_t row = member.first_row + min(panel_row(), member.end - 1) - member.begin;
  const std::int64_t at = group * member.module_rows + row;
  return {static_cast<double>(__half2float(__ushort_as_half(member.scales[at]))),
          static_cast<double>(member.zeros[at])};
}

/// The range of what the columns would be rounded at if none of them caused an error.
__device__ Range expected_range(const RowPanel& panel, const Block& block, const Span& span,
                                const GridRule& rule, SharedBlock& shared) {
  const double* values = shared.values[row_of_thread()];
  auto& expected = shared.scratch[warp_of_thread()].expected;
  double* own = expected[lane_of_thread() / kRowLanes];
  for (int j = span.begin + part_of_thread(); j < span.end; j += kRowLanes) own[j] = values[j];
  __syncwarp();
  if (panel.feedback != nullptr && block.begin + span.begin > 0) {
    solve_chain(panel, block.begin, {span.begin, span.end, span.end}, shared.operands.chain,
                expected, [](const Column&, double target, double weight) {
                  return Outcome{weight - target, target};
                });
  }
  Range range;
  for (int j = span.begin + part_of_thread(); j < span.end; j += kRowLanes) range.take(own[j]);
  return join_range(range, rule);
}

/// Searches the grid of a whole group. Called by all threads; the operands are staged again.
__device__ Grid search_group(const RowPanel& panel, const Block& block, const Piece& piece,
                             const Range& range, const GridRule& rule, SharedBlock& shared) {
  const Span span = span_of(block, piece);
  TrialRows& trial = shared.scratch[warp_of_thread()].trial;
  float* targets = trial.targets[lane_of_thread() / kRowLanes];
  float* weights = trial.weights[lane_of_thread() / kRowLanes];
  const double* values = shared.values[row_of_thread()] + span.begin;
  const double* originals = shared.operands.chain.weights[row_of_thread()] + span.begin;
  const double unit = 1.0 / step_of(range, rule);
  const int padded = (span.count() + kStrip - 1) / kStrip * kStrip;
  __syncwarp();  // what was expected makes room
  for (int j = part_of_thread(); j < padded; j += kRowLanes) {
    const bool inside = j < span.count();
    targets[j] = inside ? static_cast<float>(values[j] * unit) : 0.0F;
    weights[j] = inside ? static_cast<float>(originals[j] * unit) : 0.0F;
  }
  __syncthreads();  // the weights make room for S
  stage_search(panel, piece, shared);
  __syncthreads();
  const GroupTrial group{targets, weights, shared.operands.feedback, shared.importance,
                         span.count()};
  const bool solved = panel.feedback != nullptr;
  const Grid grid = search(range, rule, [&](const auto& trials, auto& costs) {
    solved ? solve_trials(group, trials, costs) : plain_trials(group, trials, costs);
  });
  __syncthreads();
  stage_chain(panel, block.begin, span.begin, span.end, shared.operands.chain);
  __syncthreads();
  return grid;
}

/// codes = clamp(round(target / scale) + zero, 0, top) with ties to even, one step after another.
__device__ void round_piece(const RowPanel& panel, const Block& block, const Span& span,
                            const Grid& grid, double top, SharedBlock& shared) {
  const int zero = static_cast<int>(grid.zero);
  const int highest = static_cast<int>(top) - zero;
  const double inverse = 1.0 / grid.scale;
  std::uint8_t* codes = shared.codes[row_of_thread()];
  const auto width = static_cast<int>(block.end - block.begin);
  solve_chain(panel, block.begin, {span.begin, span.end, width}, shared.operands.chain,
              shared.values + warp_of_thread() * kWarpRows,
              [&](const Column& column, double target, double weight) {
                // One correction with the exact remainder gives the quotient as a division does.
                const double near = target * inverse;
                const double rest = __fma_rn(-near, grid.scale, target);
                const double quotient = __fma_rn(rest, inverse, near);
                const int steps = min(max(__double2int_rn(quotient), -zero), highest);
                if (column.owned) codes[column.index] = static_cast<std::uint8_t>(steps + zero);
                const double error = __fma_rn(-static_cast<double>(steps), grid.scale, weight);
                return Outcome{error, error};
              });
}

/// A thread reads one column of each row.
__device__ void read_columns(const double* in, std::int64_t stride, int width,
                             double (*values)[kValueStride]) {
  const int column = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    values[row][column] = column < width ? in[(first_panel_row() + row) * stride + column] : 0.0;
  }
}

__global__ void __launch_bounds__(kThreads, 3)
    round_block_kernel(const __grid_constant__ RowPanel panel, Block block) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto& shared = *reinterpret_cast<SharedBlock*>(memory);
  const PanelMember& member = member_of_block(panel);
  const GridRule& rule = member.rule;
  const auto width = static_cast<int>(block.end - block.begin);
  read_columns(panel.targets + block.begin, panel.columns, width, shared.values);
  for (std::int64_t i = 0; i < block.pieces; ++i) {
    const Piece piece = panel.pieces[block.first_piece + i];
    const Span span = span_of(block, piece);
    __syncthreads();  // the piece before may still be at work
    stage_chain(panel, block.begin, span.begin, span.end, shared.operands.chain);
    __syncthreads();
    Grid grid;
    if (piece.begin == piece.group_begin && piece.end == piece.group_end) {
      const Range range = expected_range(panel, block, span, rule, shared);
      grid = rule.searched ? search_group(panel, block, piece, range, rule, shared)
                           : grid_of(range, rule, 1.0);
      store_grid(member, grid, piece.index);
    } else {
      grid = stored_grid(member, piece.index);
    }
    round_piece(panel, block, span, grid, rule.top, shared);
  }
  __syncthreads();
  const auto column = static_cast<int>(threadIdx.x);
  if (column >= width) return;
  const std::int64_t first = first_panel_row();
  double* errors = panel.errors + first * kErrorSteps + column;
#pragma unroll
  for (int row = 0; row < kRows; ++row) errors[row * kErrorSteps] = shared.values[row][column];
  const std::int64_t k = panel.order[block.begin + column];
  std::uint8_t* codes =
      member.codes + (member.first_row + first - member.begin) * panel.columns + k;
  const std::int64_t rows = member.end - first;
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
    if (row < rows) codes[row * panel.columns] = shared.codes[row][column];
  }
}

/// Thread x: one step; block y: rows y, y + gridDim.y, ... of the member, then of what follows it.
template <typename T>
__global__ void load_kernel(RowPanel panel, PanelMember member, const T* weight) {
  const std::int64_t step = std::int64_t{blockIdx.x} * kFlatThreads + threadIdx.x;
  if (step >= panel.columns) return;
  const T* column = weight + member.first_row * panel.columns + panel.order[step];
  const std::int64_t rows = member.end - member.begin;
  for (std::int64_t row = blockIdx.y; row < whole_chunks(rows); row += gridDim.y) {
    const double value = row < rows ? to_double(column[row * panel.columns]) : 0.0;
    panel.weights[(member.begin + row) * panel.columns + step] = value;
    panel.targets[(member.begin + row) * panel.columns + step] = value;
  }
}

/// Thread x: one step of the group; block y: rows y, y + gridDim.y, ...
__global__ void begin_expected_kernel(RowPanel panel, Piece group) {
  const std::int64_t length = group.group_end - group.group_begin;
  const std::int64_t step = std::int64_t{blockIdx.x} * kFlatThreads + threadIdx.x;
  if (step >= length) return;
  for (std::int64_t row = blockIdx.y; row < panel.rows; row += gridDim.y) {
    panel.expected[row * length + step] =
        panel.targets[row * panel.columns + group.group_begin + step];
  }
}

/// Rows as in round_block_kernel.
__global__ void __launch_bounds__(kThreads)
    drift_kernel(const __grid_constant__ RowPanel panel, Piece group, Block block) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto& shared = *reinterpret_cast<SharedBlock*>(memory);
  ChainOperands& operands = shared.operands.chain;
  const std::int64_t length = group.group_end - group.group_begin;
  const auto width = static_cast<int>(block.end - block.begin);
  double* in_group = panel.expected + (block.begin - group.group_begin);
  read_columns(in_group, length, width, shared.values);
  stage_chain(panel, block.begin, 0, width, operands);
  __syncthreads();
  solve_chain(panel, block.begin, {0, width, width}, operands,
              shared.values + warp_of_thread() * kWarpRows,
              [](const Column&, double target, double weight) {
                return Outcome{weight - target, target};
              });
  __syncthreads();
  const std::int64_t first = first_panel_row();
  const auto column = static_cast<int>(threadIdx.x);
  if (column >= width) return;
  for (int row = 0; row < kRows; ++row) {
    const double expected = shared.values[row][column];
    in_group[(first + row) * length + column] = expected;
    panel.errors[(first + row) * kErrorSteps + column] = operands.weights[row][column] - expected;
  }
}

/// Eight lanes per row, as in round_block_kernel; they load a column each and try it on all.
__global__ void __launch_bounds__(kThreads)
    large_group_kernel(const __grid_constant__ RowPanel panel, Piece group) {
  const PanelMember& member = member_of_block(panel);
  const GridRule& rule = member.rule;
  const std::int64_t length = group.group_end - group.group_begin;
  const double* expected = panel.expected + panel_row() * length;
  const double* importance =
      panel.importance == nullptr ? nullptr : panel.importance + group.group_begin;
  Range range;
  double largest = 0.0;
  for (std::int64_t j = part_of_thread(); j < length; j += kRowLanes) {
    range.take(expected[j]);
    if (importance != nullptr) largest = fmax(largest, importance[j]);
  }
  largest = reduce_lanes<kRowLanes>(largest, Larger{});
  range = join_range(range, rule);
  const double unit = 1.0 / step_of(range, rule);
  const auto try_all = [&](const Trial(&trials)[kTrials], float(&costs)[kTrials]) {
    for (float& cost : costs) cost = 0.0F;
    for (std::int64_t begin = 0; begin < length; begin += kRowLanes) {
      const std::int64_t j = begin + part_of_thread();
      const float own_target = j < length ? static_cast<float>(expected[j] * unit) : 0.0F;
      float own_importance = j < length ? 1.0F : 0.0F;
      if (j < length && largest > 0.0) own_importance = static_cast<float>(importance[j] / largest);
      for (int i = 0; i < kRowLanes; ++i) {
        const float target = __shfl_sync(kWholeWarp, own_target, i, kRowLanes);
        const float weight = __shfl_sync(kWholeWarp, own_importance, i, kRowLanes);
        add_column(trials, target, weight, costs);
      }
    }
  };
  Grid grid = grid_of(range, rule, 1.0);
  if (rule.searched) grid = search(range, rule, try_all);
  store_grid(member, grid, group.index);
}

/// The launch of a kernel that works on a SharedBlock.
template <typename... Parameters>
void launch_rows(CudaContext& context, void (*kernel)(RowPanel, Parameters...),
                 const RowPanel& panel, const std::type_identity_t<Parameters>&... rest) {
  constexpr auto kBytes = static_cast<int>(sizeof(SharedBlock));
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
             "quantize");
  kernel<<<block_count(panel.rows, kRows), kThreads, kBytes, context.stream>>>(panel, rest...);
  check_launch("quantize");
}

dim3 grid_over(std::int64_t across, std::int64_t down) {
  return {block_count(across, kFlatThreads),
          static_cast<unsigned>(std::min<std::int64_t>(down, 65535))};
}

}  // namespace

void load_member(CudaContext& context, const RowPanel& panel, const PanelMember& member,
                 ConstTensorView weight) {
  with_plain_float(weight.dtype, [&](auto element) {
    using T = typename decltype(element)::Type;
    const dim3 grid = grid_over(panel.columns, member.end - member.begin);
    load_kernel<<<grid, kFlatThreads, 0, context.stream>>>(panel, member, weight.as<T>());
  });
  check_launch("quantize");
}

void round_block(CudaContext& context, const RowPanel& panel, const Block& block) {
  launch_rows(context, round_block_kernel, panel, block);
}

void begin_expected(CudaContext& context, const RowPanel& panel, const Piece& group) {
  const std::int64_t length = group.group_end - group.group_begin;
  begin_expected_kernel<<<grid_over(length, panel.rows), kFlatThreads, 0, context.stream>>>(panel,
                                                                                            group);
  check_launch("quantize");
}

void drift_block(CudaContext& context, const RowPanel& panel, const Piece& group,
                 std::int64_t begin, std::int64_t end) {
  launch_rows(context, drift_kernel, panel, group, Block{begin, end, 0, 0});
}

void search_large_group(CudaContext& context, const RowPanel& panel, const Piece& group) {
  large_group_kernel<<<block_count(panel.rows, kRows), kThreads, 0, context.stream>>>(panel, group);
  check_launch("quantize");
}

}  // namespace quern::gpu
