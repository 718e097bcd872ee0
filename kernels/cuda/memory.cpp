#include "kernels/cuda/memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/core/error.h"
#include "kernels/cuda/errors.h"

namespace quern {
namespace {

constexpr std::size_t kAlignment = 256;

UniqueMemoryPool make_pool(int device) {
  use_device(device);
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location = {cudaMemLocationTypeDevice, device};
  UniqueMemoryPool pool;
  check_cuda(cudaMemPoolCreate(pool.put(), &properties), "create memory pool");
  std::uint64_t kept = std::numeric_limits<std::uint64_t>::max();
  check_cuda(cudaMemPoolSetAttribute(pool.get(), cudaMemPoolAttrReleaseThreshold, &kept),
             "create memory pool");
  return pool;
}

struct DeviceBytes {
  std::size_t free = 0;
  std::size_t total = 0;
};

DeviceBytes memory_of_device(int device) {
  use_device(device);
  DeviceBytes bytes;
  check_cuda(cudaMemGetInfo(&bytes.free, &bytes.total), "ask for free memory");
  return bytes;
}

[[noreturn]] void refuse(std::size_t bytes, std::size_t used, const DeviceBytes& device) {
  throw MemoryError(fmt::format(
      "device memory: {} bytes refused while {} are in use here and {} of {} are free on the "
      "device; use a smaller micro_batch, a device with more memory or fewer ranks on it",
      bytes, used, device.free, device.total));
}

}  // namespace

CudaMemory::CudaMemory(int device)
    : device_(device),
      total_bytes_(memory_of_device(device).total),
      pool_(make_pool(device)),
      stream_(make_stream(device)) {}

CudaMemory::~CudaMemory() {
  cudaStreamSynchronize(stream_.get());
}

void CudaMemory::synchronize() {
  check_cuda(cudaStreamSynchronize(stream_.get()), "synchronize device");
}

cudaError_t CudaMemory::try_allocate(std::size_t bytes, void** data) const {
  const cudaError_t status = cudaMallocFromPoolAsync(data, bytes, pool_.get(), stream_.get());
  if (status == cudaErrorMemoryAllocation) cudaGetLastError();
  return status;
}

std::byte* CudaMemory::do_allocate(std::size_t bytes) {
  use_device(device_);
  // The driver names other errors than a lack of memory for sizes that no device has.
  if (bytes > total_bytes_) refuse(bytes, used_bytes_, memory_of_device(device_));
  const std::size_t rounded =
      (std::max<std::size_t>(bytes, 1) + kAlignment - 1) & ~(kAlignment - 1);
  void* data = nullptr;
  cudaError_t status = try_allocate(rounded, &data);
  if (status == cudaErrorMemoryAllocation) {
    // What was freed may still be in pieces: give it all back and ask once more.
    synchronize();
    check_cuda(cudaMemPoolTrimTo(pool_.get(), 0), "trim memory pool");
    status = try_allocate(rounded, &data);
  }
  if (status == cudaErrorMemoryAllocation) refuse(bytes, used_bytes_, memory_of_device(device_));
  check_cuda(status, "allocate");
  const std::size_t used = used_bytes_ += bytes;
  std::size_t peak = peak_bytes_;
  while (peak < used && !peak_bytes_.compare_exchange_weak(peak, used)) {
  }
  return static_cast<std::byte*>(data);
}

void CudaMemory::do_free(std::byte* data, std::size_t bytes) noexcept {
  cudaFreeAsync(data, stream_.get());
  used_bytes_ -= bytes;
}

void CudaMemory::do_upload(std::span<const std::byte> host, std::byte* device) {
  use_device(device_);
  check_cuda(cudaMemcpyAsync(device, host.data(), host.size(), cudaMemcpyHostToDevice, stream()),
             "upload");
}

void CudaMemory::do_download(const std::byte* device, std::span<std::byte> host) {
  use_device(device_);
  check_cuda(cudaMemcpyAsync(host.data(), device, host.size(), cudaMemcpyDeviceToHost, stream()),
             "download");
}

void CudaMemory::do_copy(const std::byte* from, std::byte* to, std::size_t bytes) {
  use_device(device_);
  check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream()), "copy");
}

void CudaMemory::do_clear(std::byte* data, std::size_t bytes) {
  use_device(device_);
  check_cuda(cudaMemsetAsync(data, 0, bytes, stream()), "clear");
}

}  // namespace quern
