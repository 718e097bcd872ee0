#include <algorithm>

#include "kernels/cuda/errors.h"
#include "kernels/cuda/histogram.cuh"
#include "kernels/cuda/outliers.h"

namespace quern::gpu {
namespace {

using namespace numeric;
using namespace histogram;

constexpr int kRun = 16;  // neighbouring elements of one thread
constexpr std::int64_t kTile = std::int64_t{histogram::kThreads} * kRun;

/// The key from which elements are marked, and how many that are equal to it.
struct Limit {
  Place upper;
  std::uint32_t key;
  std::int64_t ties;
};

/// The bits of floats >= 0, which have the order of the floats; -0 is 0.
__device__ std::uint32_t positive_key(float value) {
  return __float_as_uint(value) & 0x7FFFFFFFU;
}

__global__ void count_high_kernel(const float* values, std::int64_t elems, Count* bins) {
  Count* const own = own_copy(bins);
  for_elements(elems, [&](std::int64_t i, bool inside) {
    count_bin(own, inside ? positive_key(values[i]) >> 16 : 0, inside);
  });
}

__global__ void count_low_kernel(const float* values, std::int64_t elems, const Limit* limit,
                                 Count* bins) {
  for_elements(elems, [&](std::int64_t i, bool inside) {
    const std::uint32_t key = inside ? positive_key(values[i]) : 0;
    count_bin(bins, key & 0xFFFFU, inside && key >> 16 == limit->upper.bin);
  });
}

/// One block.
__global__ void find_upper_kernel(const Count* bins, std::int64_t wanted, Limit* limit) {
  const Place place = find_place(bins, wanted - 1, true);
  if (threadIdx.x == 0) limit->upper = place;
}

/// One block.
__global__ void find_lower_kernel(const Count* bins, std::int64_t wanted, bool with_zeros,
                                  Limit* limit) {
  const Place upper = limit->upper;
  const Place place = find_place(bins, wanted - 1 - upper.passed, true);
  if (threadIdx.x != 0) return;
  limit->key = (upper.bin << 16) | place.bin;
  const bool marks_ties = limit->key > 0 || with_zeros;
  limit->ties = marks_ties ? wanted - upper.passed - place.passed : 0;
}

/// One block per tile: how many of its elements are equal to the limit.
__global__ void count_ties_kernel(const float* values, std::int64_t elems, const Limit* limit,
                                  std::int64_t* ties) {
  const std::int64_t begin = blockIdx.x * kTile + std::int64_t{threadIdx.x} * kRun;
  int equal = 0;
  for (std::int64_t i = begin; i < min(elems, begin + kRun); ++i) {
    equal += positive_key(values[i]) == limit->key ? 1 : 0;
  }
  equal = block_sum(equal);
  if (threadIdx.x == 0) ties[blockIdx.x] = equal;
}

/// One block: ties of each tile to those of the tiles before it.
__global__ void scan_ties_kernel(std::int64_t* ties, std::int64_t tiles) {
  std::int64_t base = 0;
  for (std::int64_t begin = 0; begin < tiles; begin += kPlaceThreads) {
    const std::int64_t tile = begin + threadIdx.x;
    const std::int64_t own = tile < tiles ? ties[tile] : 0;
    std::int64_t total = 0;
    const std::int64_t before = base + block_scan(own, total);
    if (tile < tiles) ties[tile] = before;
    base += total;
  }
}

/// One block per tile. Ties get what is left of the count in the order of their index.
__global__ void mark_kernel(const float* values, std::int64_t elems, const Limit* limit,
                            const std::int64_t* ties, std::uint8_t* mask) {
  const std::int64_t begin = blockIdx.x * kTile + std::int64_t{threadIdx.x} * kRun;
  const std::int64_t end = min(elems, begin + kRun);
  const std::uint32_t key = limit->key;
  int equal = 0;
  for (std::int64_t i = begin; i < end; ++i) equal += positive_key(values[i]) == key ? 1 : 0;
  int total = 0;
  std::int64_t rest = limit->ties - ties[blockIdx.x] - block_scan(equal, total);
  for (std::int64_t i = begin; i < end; ++i) {
    const std::uint32_t own = positive_key(values[i]);
    if (own > key || (own == key && rest-- > 0)) mask[i] = 1;
  }
}

}  // namespace

void mark_largest(CudaContext& context, const LargestOf& input, std::uint8_t* mask) {
  const std::int64_t wanted = std::min(input.count, input.elems);
  if (wanted <= 0) return;
  Memory& memory = context.memory;
  const std::int64_t tiles = (input.elems + kTile - 1) / kTile;
  Tensor bins = memory.allocate(DType::i64, {kCopies + 1, kHalf});
  Tensor limits = memory.allocate(DType::u8, {static_cast<std::int64_t>(sizeof(Limit))});
  Tensor ties = memory.allocate(DType::i64, {tiles});
  memory.clear(bins.view());
  auto* high = bins.view().as<Count>();
  Count* low = high + kCopies * kHalf;
  auto* limit = limits.view().as<Limit>();
  auto* tie_counts = ties.view().as<std::int64_t>();
  const unsigned grid = grid_for(input.elems);
  const unsigned tile_grid = block_count(tiles, 1);
  count_high_kernel<<<grid, histogram::kThreads, 0, context.stream>>>(input.values, input.elems,
                                                                      high);
  join_copies(context.stream, high);
  find_upper_kernel<<<1, kPlaceThreads, 0, context.stream>>>(high, wanted, limit);
  count_low_kernel<<<grid, histogram::kThreads, 0, context.stream>>>(input.values, input.elems,
                                                                     limit, low);
  find_lower_kernel<<<1, kPlaceThreads, 0, context.stream>>>(low, wanted, input.with_zeros, limit);
  count_ties_kernel<<<tile_grid, histogram::kThreads, 0, context.stream>>>(
      input.values, input.elems, limit, tie_counts);
  scan_ties_kernel<<<1, kPlaceThreads, 0, context.stream>>>(tie_counts, tiles);
  mark_kernel<<<tile_grid, histogram::kThreads, 0, context.stream>>>(input.values, input.elems,
                                                                     limit, tie_counts, mask);
  check_launch("mark largest");
}

}  // namespace quern::gpu
