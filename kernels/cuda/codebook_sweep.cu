#include <algorithm>

#include "kernels/cuda/codebook_table.cuh"
#include "kernels/cuda/codebook_tile.h"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/products.h"

namespace quern::gpu {
namespace {

using namespace numeric;
using namespace codebook;

constexpr int kBlock = 128;  // columns whose changes reach the others in one product
constexpr int kWarps = 8;    // rows of one thread block
constexpr int kThreads = kWarps * kWarp;
constexpr int kSlots = kBlock / kWarp;  // columns of a block that one lane owns

/// Tables of the rows of a thread block.
struct SharedRows {
  double values[kWarps][kMaxCount];
  double bounds[kWarps][kMaxCount];  ///< halfway; infinite where the next value repeats
};

/// One lane's columns of a row inside a block: lane, lane + 32, ...
struct LaneColumns {
  double weight[kSlots];
  double error[kSlots];
  double gradient[kSlots];
  double change[kSlots];
  int code[kSlots];
  bool fixed[kSlots];
};

/// The code of the centroid nearest to target; bounds are compared 32 at a time.
__device__ int nearest_code(const double* bounds, int count, double target) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  int code = 0;
  for (int begin = 0; begin + 1 < count; begin += kWarp) {
    const int c = begin + lane;
    code += __popc(__ballot_sync(kWholeWarp, c + 1 < count && target > bounds[c]));
  }
  return code;
}

__device__ void load_lane(const RefineRows& rows, std::int64_t row, std::int64_t begin, int width,
                          LaneColumns& lane) {
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    const int column = slot * kWarp + static_cast<int>(threadIdx.x) % kWarp;
    if (column >= width) continue;
    const std::int64_t at = row * rows.state.columns + begin + column;
    const std::int64_t i = (rows.first + row) * rows.state.columns + begin + column;
    lane.weight[slot] = static_cast<double>(rows.weights[i]);
    lane.error[slot] = rows.errors[at];
    lane.gradient[slot] = rows.gradient[at];
    lane.code[slot] = rows.state.codes[i];
    lane.fixed[slot] = rows.state.mask[i] != 0;
  }
}

__device__ void store_lane(const RefineRows& rows, std::int64_t row, std::int64_t begin, int width,
                           const LaneColumns& lane, double* changes) {
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    const int column = slot * kWarp + static_cast<int>(threadIdx.x) % kWarp;
    if (column >= width) continue;
    rows.errors[row * rows.state.columns + begin + column] = lane.error[slot];
    changes[row * kBlock + column] = lane.change[slot];
    if (lane.change[slot] == 0.0) continue;
    rows.state.codes[(rows.first + row) * rows.state.columns + begin + column] =
        static_cast<std::uint8_t>(lane.code[slot]);
  }
}

/// One warp per row: columns [begin, begin + width) in order, each seeing the changes of those
/// before it. The centroid nearest to weight - e_j + (e H)_j / H_jj is best while others stay.
__global__ void __launch_bounds__(kThreads)
    descend_kernel(RefineRows rows, std::int64_t begin, int width, double* changes) {
  __shared__ SharedRows shared;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int own = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t row = std::int64_t{blockIdx.x} * kWarps + warp;
  if (row >= rows.rows) return;
  const int count = rows.state.count;
  const float* table = rows.state.table + (rows.first + row) * count;
  double* values = shared.values[warp];
  double* bounds = shared.bounds[warp];
  for (int c = own; c < count; c += kWarp) {
    values[c] = static_cast<double>(table[c]);
    if (c + 1 == count) continue;
    const double next = static_cast<double>(table[c + 1]);
    bounds[c] = values[c] == next ? static_cast<double>(infinity()) : 0.5 * (values[c] + next);
  }
  __syncwarp();
  LaneColumns lane{};
  load_lane(rows, row, begin, width, lane);
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    const int steps = min(kWarp, width - slot * kWarp);
    for (int owner = 0; owner < steps; ++owner) {
      const int at = slot * kWarp + owner;
      const double* h = rows.h + (begin + at) * rows.state.columns + begin;
      const double diagonal = __ldg(h + at);
      if (!(diagonal > 0.0)) continue;
      const double target = __shfl_sync(
          kWholeWarp, lane.weight[slot] - lane.error[slot] + lane.gradient[slot] * (1.0 / diagonal),
          owner);
      const int code = nearest_code(bounds, count, target);
      if (own == owner && !lane.fixed[slot]) {
        const double next = lane.weight[slot] - values[code];
        lane.change[slot] = next - lane.error[slot];
        lane.error[slot] = next;
        lane.code[slot] = code;
      }
      const double change = __shfl_sync(kWholeWarp, lane.change[slot], owner);
      if (change == 0.0) continue;
#pragma unroll
      for (int other = 0; other < kSlots; ++other) {
        const int column = other * kWarp + own;
        if (column > at && column < width) lane.gradient[other] += __ldg(h + column) * change;
      }
    }
  }
  store_lane(rows, row, begin, width, lane, changes);
}

}  // namespace

void sweep_columns(CudaContext& context, const RefineRows& rows, double* changes) {
  const std::int64_t columns = rows.state.columns;
  for (std::int64_t begin = 0; begin < columns; begin += kBlock) {
    const std::int64_t width = std::min<std::int64_t>(kBlock, columns - begin);
    descend_kernel<<<block_count(rows.rows, kWarps), kThreads, 0, context.stream>>>(
        rows, begin, static_cast<int>(width), changes);
    check_launch("refine");
    multiply_f64(context, {rows.rows, columns, width, true}, {changes, kBlock},
                 {rows.h + begin * columns, columns}, {rows.gradient, columns});
  }
}

}  // namespace quern::gpu
