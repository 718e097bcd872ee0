#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "kernels/backend.h"

namespace quern {

struct CudaOptions {
  int device = 0;                        ///< index in [0, cuda_device_count())
  DType activation_dtype = DType::bf16;  ///< bf16, f16, f32 or f64
  std::size_t memory_limit_bytes = 0;    ///< 0: what is free at the start, less a small reserve
  int sharers = 1;                       ///< processes that divide what is free
};

/// Devices this process may use; 0 without a driver and in a build without CUDA.
int cuda_device_count();

/// "NVIDIA H200, compute capability 9.0, 132 multiprocessors, 139.8 GiB". ConfigError as from
/// make_cuda_backend.
std::string cuda_device_summary(int device);

/// How many H of K columns a GPU factorises at once: a small one alone leaves most of it idle.
/// Several factors take 1 GiB at most.
constexpr std::size_t cuda_factors_at_once(std::int64_t columns) noexcept {
  constexpr std::int64_t kMost = 8;
  constexpr std::int64_t kElems = (std::int64_t{1} << 30) / 8;
  return static_cast<std::size_t>(std::clamp<std::int64_t>(kElems / (columns * columns), 1, kMost));
}

/// One GPU, which becomes the calling thread's current device; operations are to be issued by that
/// thread, Memory may be used by any. Sums are kept in float32; with activations of f64 everything
/// is computed in float64. The results depend on shapes and values only; they are the same in every
/// run on the same GPU model and libraries, see numerics().
/// Throws ConfigError if the build has no CUDA, there is no such device, it is older than compute
/// capability 8.0, or the activation type is another one; DeviceError if it does not start.
std::unique_ptr<Backend> make_cuda_backend(const CudaOptions& options);

}  // namespace quern
