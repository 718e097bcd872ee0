#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "kernels/core/error.h"
#include "kernels/core/tensor.h"

namespace quern {

// Elements of the plain float types: widened without loss, narrowed to nearest even.

/// The type in which elements of type T are computed.
template <typename T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

/// Wide of an activation type.
constexpr DType wide_dtype(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

__device__ inline double widen(double value) {
  return value;
}
__device__ inline float widen(float value) {
  return value;
}
__device__ inline float widen(__half value) {
  return __half2float(value);
}
__device__ inline float widen(__nv_bfloat16 value) {
  return __bfloat162float(value);
}

template <typename T>
__device__ T narrow(float value) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(value);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(value);
  } else {
    return static_cast<T>(value);
  }
}
/// Rounds once: on the way over float there would be two roundings.
template <typename T>
__device__ T narrow(double value) {
  if constexpr (std::is_same_v<T, __half>) {
    return __double2half(value);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __double2bfloat16(value);
  } else {
    return static_cast<T>(value);
  }
}

/// A type as a function argument.
template <typename T>
struct TypeTag {
  using Type = T;
};

/// Calls with TypeTag<T> of the element type; f64, f32, f16 or bf16.
template <typename Call>
void with_plain_float(DType dtype, Call call) {
  switch (dtype) {
    case DType::f64:
      return call(TypeTag<double>{});
    case DType::f32:
      return call(TypeTag<float>{});
    case DType::f16:
      return call(TypeTag<__half>{});
    case DType::bf16:
      return call(TypeTag<__nv_bfloat16>{});
    default:
      ensure(false, "a plain float type");
  }
}

/// Calls with TypeTag<Wide<T>> of the element type T.
template <typename Call>
void with_wide(DType dtype, Call call) {
  if (wide_dtype(dtype) == DType::f64) return call(TypeTag<double>{});
  call(TypeTag<float>{});
}

/// Consecutive elements that one thread moves at a time.
inline constexpr int kPack = 8;

template <typename T>
struct alignas(16) Pack {
  T at[kPack];
};

/// True if packs may be moved whole: all begin at 16 bytes.
inline bool packs_aligned(std::initializer_list<const void*> pointers) {
  for (const void* pointer : pointers) {
    if (reinterpret_cast<std::uintptr_t>(pointer) % 16 != 0) return false;
  }
  return true;
}

/// `count` of kPack elements, the others 0; `aligned`: `from` is a multiple of 16 bytes.
template <typename T>
__device__ Pack<T> load_pack(const T* from, std::int64_t count, bool aligned) {
  if (aligned && count >= kPack) return *reinterpret_cast<const Pack<T>*>(from);
  Pack<T> pack;
  for (int i = 0; i < kPack; ++i) pack.at[i] = i < count ? from[i] : T(0.0F);
  return pack;
}

template <typename T>
__device__ void store_pack(const Pack<T>& pack, T* to, std::int64_t count, bool aligned) {
  if (aligned && count >= kPack) {
    *reinterpret_cast<Pack<T>*>(to) = pack;
    return;
  }
  for (int i = 0; i < kPack; ++i) {
    if (i < count) to[i] = pack.at[i];
  }
}

}  // namespace quern
