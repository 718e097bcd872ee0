#include <array>

#include "kernels/core/error.h"
#include "kernels/cuda/devices.h"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/stream.h"
#include "kernels/cuda_stream.h"

namespace quern {
namespace {

class MarkedStream final : public CudaStream {
 public:
  explicit MarkedStream(cudaStream_t stream) : stream_(stream) {}

  void* handle() const noexcept override { return stream_; }
  void mark() override { check_cuda(cudaEventRecord(event_.get(), stream_), "mark stream"); }
  bool has_passed_mark() override {
    const cudaError_t status = cudaEventQuery(event_.get());
    if (status == cudaErrorNotReady) {
      cudaGetLastError();  // or the next launch would be taken for a failed one
      return false;
    }
    check_cuda(status, "wait for stream");
    return true;
  }

 private:
  cudaStream_t stream_;
  UniqueEvent event_ = make_event();
};

}  // namespace

std::unique_ptr<CudaStream> make_cuda_stream(Memory& memory) {
  const auto* const cuda = dynamic_cast<const CudaMemory*>(&memory);
  ensure(cuda != nullptr, "the memory of a CUDA backend");
  return std::make_unique<MarkedStream>(cuda->stream());
}

std::string cuda_device_address(int device) {
  usable_device(device);
  std::array<char, 32> text{};
  check_cuda(cudaDeviceGetPCIBusId(text.data(), static_cast<int>(text.size()), device),
             "read device address");
  return text.data();
}

}  // namespace quern
