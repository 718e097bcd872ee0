#pragma once

#include <cuda_runtime_api.h>

namespace quern {

/// Properties of a device that the backend can work on. Throws ConfigError if there is no such
/// device or it is older than compute capability 8.0.
cudaDeviceProp usable_device(int device);

}  // namespace quern
