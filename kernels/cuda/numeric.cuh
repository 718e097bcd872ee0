#pragma once

#include <cstdint>

#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/reduce.cuh"

/// Device arithmetic that statistics and solvers share, apart from names of the CPU backend (gpu).
/// Reductions run in an order that block size and shape fix.
namespace quern::gpu::numeric {

inline constexpr int kWarp = 32;

template <typename T>
__device__ inline double to_double(T x) {
  return static_cast<double>(widen(x));
}

template <typename T>
__device__ inline float to_float(T x) {
  return static_cast<float>(widen(x));
}

/// Every lane gets the sum over its warp.
template <typename T>
__device__ inline T warp_sum(T value) {
  return reduce_lanes(value, Sum{});
}

/// Every thread gets the sum over its block of whole warps.
template <typename T>
__device__ inline T block_sum(T value) {
  return reduce_block(value, Sum{});
}

/// Exclusive prefix sum over the block in thread order; total gets the whole sum.
template <typename T>
__device__ inline T block_scan(T value, T& total) {
  __shared__ T parts[kWarp];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  T inclusive = value;
  for (int offset = 1; offset < kWarp; offset *= 2) {
    const T below = __shfl_up_sync(kWholeWarp, inclusive, offset);
    if (lane >= offset) inclusive += below;
  }
  T before = __shfl_up_sync(kWholeWarp, inclusive, 1);
  if (lane == 0) before = T{};
  __syncthreads();  // an earlier scan may still be read
  if (lane == kWarp - 1) parts[warp] = inclusive;
  __syncthreads();
  T base{};
  total = T{};
  for (int i = 0; i < warps; ++i) {
    if (i == warp) base = total;
    total += parts[i];
  }
  return base + before;
}

/// Adds the warp's counts to a counter; all lanes call.
__device__ inline void count_refused(unsigned refused, std::int64_t* counter) {
  const unsigned sum = __reduce_add_sync(kWholeWarp, refused);
  if (threadIdx.x % kWarp == 0 && sum != 0) {
    atomicAdd(reinterpret_cast<unsigned long long*>(counter), static_cast<unsigned long long>(sum));
  }
}

__device__ inline double power_of_two(int exponent) {
  return ldexp(1.0, exponent);
}

}  // namespace quern::gpu::numeric
