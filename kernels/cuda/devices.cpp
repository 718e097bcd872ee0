#include "kernels/cuda/devices.h"

#include <fmt/format.h>

#include "kernels/core/error.h"
#include "kernels/cuda/errors.h"
#include "kernels/cuda_backend.h"

namespace quern {

cudaDeviceProp usable_device(int device) {
  const int count = cuda_device_count();
  if (device < 0 || device >= count) {
    throw ConfigError(
        fmt::format("device: there is no CUDA device {}; expected an index below {}, the number of "
                    "devices this process may use (CUDA_VISIBLE_DEVICES); choose one of them, or "
                    "run with device: cpu",
                    device, count));
  }
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, device), "read device properties");
  if (properties.major < 8) {
    throw ConfigError(fmt::format(
        "device: {} has compute capability {}.{}; expected 8.0 (Ampere) or later; choose another "
        "device, or run with device: cpu",
        properties.name, properties.major, properties.minor));
  }
  return properties;
}

int cuda_device_count() {
  int count = 0;
  // No driver and no device are both no reason to fail here.
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return count;
}

std::string cuda_device_summary(int device) {
  const cudaDeviceProp properties = usable_device(device);
  return fmt::format("{}, compute capability {}.{}, {} multiprocessors, {:.1f} GiB",
                     properties.name, properties.major, properties.minor,
                     properties.multiProcessorCount,
                     static_cast<double>(properties.totalGlobalMem) * 0x1p-30);
}

}  // namespace quern
