#pragma once

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

namespace quern {

/// Throws DeviceError with the operation's name and the library's words unless the call succeeded;
/// MemoryError where it failed for lack of device memory.
void check_cuda(cudaError_t status, const char* operation);
void check_cuda(cublasStatus_t status, const char* operation);

/// As check_cuda, for the kernel launched last. What fails while it runs shows at synchronize().
void check_launch(const char* operation);

/// Makes `device` the calling thread's current one.
void use_device(int device);

}  // namespace quern
