#pragma once

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include "kernels/core/unique_handle.h"

namespace quern {

struct StreamTraits {
  using Handle = cudaStream_t;
  static Handle none() noexcept { return nullptr; }
  static void close(Handle handle) noexcept { cudaStreamDestroy(handle); }
};
struct MemoryPoolTraits {
  using Handle = cudaMemPool_t;
  static Handle none() noexcept { return nullptr; }
  static void close(Handle handle) noexcept { cudaMemPoolDestroy(handle); }
};
struct EventTraits {
  using Handle = cudaEvent_t;
  static Handle none() noexcept { return nullptr; }
  static void close(Handle handle) noexcept { cudaEventDestroy(handle); }
};
struct CublasTraits {
  using Handle = cublasHandle_t;
  static Handle none() noexcept { return nullptr; }
  static void close(Handle handle) noexcept { cublasDestroy(handle); }
};

using UniqueStream = UniqueHandle<StreamTraits>;
using UniqueMemoryPool = UniqueHandle<MemoryPoolTraits>;
using UniqueEvent = UniqueHandle<EventTraits>;
using UniqueCublas = UniqueHandle<CublasTraits>;

}  // namespace quern
