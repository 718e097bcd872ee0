#pragma once

namespace quern {

inline constexpr unsigned kWholeWarp = 0xFFFFFFFFU;

struct Sum {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

/// NaN counts as the smallest value.
struct Largest {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return fmax(a, b);
  }
};

/// Over groups of kLanes neighbouring lanes, a power of two; every lane gets the same bits.
template <int kLanes = 32, typename T, typename Join>
__device__ T reduce_lanes(T value, Join join) {
  for (int step = kLanes / 2; step > 0; step /= 2) {
    value = join(value, __shfl_xor_sync(kWholeWarp, value, step));
  }
  return value;
}

/// Over a block of whole warps, in one fixed order; every thread gets the result. To be called by
/// all threads of the block.
template <typename T, typename Join>
__device__ T reduce_block(T value, Join join) {
  __shared__ T of_warp[32];
  value = reduce_lanes(value, join);
  __syncthreads();  // an earlier reduction may still be read
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
  __syncthreads();
  T total = of_warp[0];
  for (unsigned warp = 1; warp < blockDim.x / 32; ++warp) total = join(total, of_warp[warp]);
  return total;
}

}  // namespace quern
