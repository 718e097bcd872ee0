#pragma once

#include "kernels/cuda/numeric.cuh"
#include "kernels/cuda/order_key.cuh"

/// Exact selection by two histograms of half keys. Counts are integers: their order is free.
namespace quern::gpu::histogram {

using numeric::block_scan;
using numeric::kWarp;

inline constexpr int kHalf = 65536;  // values of half a key
inline constexpr int kThreads = 256;
inline constexpr int kPlaceThreads = 1024;
inline constexpr int kMostBlocks = 1024;
inline constexpr int kCopies = 32;  // of the bins that many elements share

using Count = unsigned long long;

/// The bin that holds a place of the elements counted from the first bin, or from the last, and
/// how many lie in the bins passed.
struct Place {
  std::uint32_t bin;
  std::int64_t passed;
};

/// Counts one element; equal bins of a warp become one addition. All lanes of a warp call.
__device__ inline void count_bin(Count* bins, unsigned bin, bool counts) {
  const unsigned callers = __ballot_sync(kWholeWarp, counts);
  if (!counts) return;
  const unsigned peers = __match_any_sync(callers, bin);
  if (__ffs(static_cast<int>(peers)) - 1 == static_cast<int>(threadIdx.x) % kWarp) {
    atomicAdd(bins + bin, static_cast<Count>(__popc(peers)));
  }
}

/// The copy of the bins that a block counts in: most floats share a few upper halves, and all
/// blocks would wait for each other there. bins [kCopies, kHalf].
__device__ inline Count* own_copy(Count* bins) {
  return bins + std::int64_t{blockIdx.x % kCopies} * kHalf;
}

/// One thread per bin: adds the other copies to the first.
static __global__ void join_copies_kernel(Count* bins) {
  const int bin = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  Count sum = 0;
  for (int copy = 0; copy < kCopies; ++copy) sum += bins[copy * kHalf + bin];
  bins[bin] = sum;
}

inline void join_copies(cudaStream_t stream, Count* bins) {
  join_copies_kernel<<<kHalf / kThreads, kThreads, 0, stream>>>(bins);
}

/// visit(i, inside) for all elements, i and i + 1 in neighbouring lanes; whole warps at a time.
template <typename Visit>
__device__ void for_elements(std::int64_t elems, Visit visit) {
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x;
  const std::int64_t whole = (elems + kWarp - 1) / kWarp * kWarp;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < whole; i += step) {
    visit(i, i < elems);
  }
}

inline unsigned grid_for(std::int64_t elems) {
  return std::min<unsigned>(kMostBlocks, block_count(elems, kThreads));
}

/// The place of `rank` among kHalf bins; thread t has 64 neighbouring ones. All threads of a block
/// of kPlaceThreads call and get it.
__device__ inline Place find_place(const Count* bins, std::int64_t rank, bool from_above) {
  __shared__ Place found;
  constexpr int kRun = kHalf / kPlaceThreads;
  if (threadIdx.x == 0) found = {from_above ? 0U : kHalf - 1U, 0};
  __syncthreads();
  const int first = static_cast<int>(threadIdx.x) * kRun;
  const auto bin_at = [from_above](int i) { return from_above ? kHalf - 1 - i : i; };
  std::int64_t own = 0;
  for (int i = first; i < first + kRun; ++i) own += static_cast<std::int64_t>(bins[bin_at(i)]);
  std::int64_t total = 0;
  std::int64_t passed = block_scan(own, total);
  if (passed <= rank && rank < passed + own) {
    int i = first;
    while (passed + static_cast<std::int64_t>(bins[bin_at(i)]) <= rank) {
      passed += static_cast<std::int64_t>(bins[bin_at(i++)]);
    }
    found = {static_cast<std::uint32_t>(bin_at(i)), passed};
  }
  __syncthreads();
  return found;
}

}  // namespace quern::gpu::histogram
