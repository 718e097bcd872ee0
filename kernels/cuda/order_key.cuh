#pragma once

#include <cstdint>

namespace quern::gpu {

/// Unsigned keys in the order of the floats, and back.
__device__ inline std::uint32_t order_key(float value) {
  const std::uint32_t bits = __float_as_uint(value);
  return bits ^ ((bits & 0x80000000U) != 0 ? 0xFFFFFFFFU : 0x80000000U);
}

__device__ inline float value_of_key(std::uint32_t key) {
  return __uint_as_float(key ^ ((key & 0x80000000U) != 0 ? 0x80000000U : 0xFFFFFFFFU));
}

}  // namespace quern::gpu
