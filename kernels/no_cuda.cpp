#include "kernels/core/error.h"
#include "kernels/cuda_backend.h"
#include "kernels/cuda_stream.h"

namespace quern {
namespace {

[[noreturn]] void refuse() {
  throw ConfigError(
      "device: this program was built without CUDA; expected a build with -DQUERN_CUDA=ON; use "
      "that, "
      "or run with device: cpu");
}

}  // namespace

int cuda_device_count() {
  return 0;
}

std::string cuda_device_summary(int /*device*/) {
  refuse();
}

std::unique_ptr<Backend> make_cuda_backend(const CudaOptions& /*options*/) {
  refuse();
}

std::unique_ptr<CudaStream> make_cuda_stream(Memory& /*memory*/) {
  refuse();
}

std::string cuda_device_address(int /*device*/) {
  refuse();
}

}  // namespace quern
