#include "kernels/cuda/errors.h"

#include <fmt/format.h>

#include <string_view>

#include "kernels/core/error.h"

namespace quern {
namespace {

[[noreturn]] void fail(const char* operation, std::string_view library, std::string_view reason) {
  throw DeviceError(fmt::format(
      "{}: {} reports: {}; the device's state is lost, run again to resume; if it happens again, "
      "check the driver and the device (nvidia-smi) or run with device: cpu",
      operation, library, reason));
}

[[noreturn]] void fail_for_memory(const char* operation, std::string_view library) {
  throw MemoryError(
      fmt::format("{}: {} found no device memory for its own needs; use a smaller micro_batch or a "
                  "device with more memory",
                  operation, library));
}

}  // namespace

void check_cuda(cudaError_t status, const char* operation) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // so that the next launch is not blamed for this failure
  if (status == cudaErrorMemoryAllocation) fail_for_memory(operation, "CUDA");
  fail(operation, "CUDA", cudaGetErrorString(status));
}

void check_cuda(cublasStatus_t status, const char* operation) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  if (status == CUBLAS_STATUS_ALLOC_FAILED) fail_for_memory(operation, "cuBLAS");
  fail(operation, "cuBLAS", cublasGetStatusString(status));
}

void check_launch(const char* operation) {
  check_cuda(cudaGetLastError(), operation);
}

void use_device(int device) {
  check_cuda(cudaSetDevice(device), "choose device");
}

}  // namespace quern
