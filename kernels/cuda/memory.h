#pragma once

#include "kernels/cuda/stream.h"
#include "kernels/memory.h"

namespace quern {

/// What tensors may take of a device that `sharers` processes use: an equal share of what is free
/// now, less a reserve for libraries and fragments, and at most cap_bytes unless that is 0.
std::size_t cuda_memory_limit(int device, std::size_t cap_bytes, int sharers);

/// Device memory in a pool that keeps what it once got: after the first pass neither allocation nor
/// release reaches the driver or waits. Both are ordered by the stream, and may be called on any
/// thread. Copies from and to ordinary host memory go through the driver's own pinned staging,
/// which holds the calling thread until the host bytes are read or written; pinned memory is not
/// held up.
class CudaMemory final : public Memory {
 public:
  CudaMemory(int device, std::size_t limit_bytes);
  ~CudaMemory() override;

  cudaStream_t stream() const noexcept { return stream_.get(); }

  void synchronize() override;
  std::byte* host_address(TensorView) noexcept override { return nullptr; }

 private:
  std::byte* do_allocate(std::size_t bytes) override;
  void do_free(std::byte* data, std::size_t bytes) noexcept override;
  HostBuffer do_allocate_host(std::size_t bytes) override;
  void do_upload(std::span<const std::byte> host, std::byte* device) override;
  void do_download(const std::byte* device, std::span<std::byte> host) override;
  void do_copy(const std::byte* from, std::byte* to, std::size_t bytes) override;
  void do_clear(std::byte* data, std::size_t bytes) override;

  cudaError_t try_allocate(std::size_t bytes, void** data) const;

  int device_;
  std::size_t total_bytes_;  ///< that the device has
  UniqueMemoryPool pool_;
  UniqueStream stream_;
};

}  // namespace quern
