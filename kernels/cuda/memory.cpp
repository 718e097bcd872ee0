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
// Code, handles and NCCL's buffers lie outside the pool, and the pool leaves gaps.
constexpr std::size_t kReserveBytes = std::size_t{512} << 20;
constexpr std::size_t kReserveShare = 64;  // and this part of the device

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

std::size_t cuda_memory_limit(int device, std::size_t cap_bytes, int sharers) {
  const DeviceBytes now = memory_of_device(device);
  const std::size_t share = now.free / static_cast<std::size_t>(sharers);
  const std::size_t reserve = kReserveBytes + now.total / kReserveShare;
  const std::size_t limit = share > reserve ? share - reserve : 0;
  return cap_bytes == 0 ? limit : std::min(limit, cap_bytes);
}

CudaMemory::CudaMemory(int device, std::size_t limit_bytes)
    : Memory(limit_bytes),
      device_(device),
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
  if (bytes > total_bytes_) refuse(bytes, used_bytes(), memory_of_device(device_));
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
  if (status == cudaErrorMemoryAllocation) refuse(bytes, used_bytes(), memory_of_device(device_));
  check_cuda(status, "allocate");
  return static_cast<std::byte*>(data);
}

void CudaMemory::do_free(std::byte* data, std::size_t /*bytes*/) noexcept {
  cudaFreeAsync(data, stream_.get());
}

HostBuffer CudaMemory::do_allocate_host(std::size_t bytes) {
  use_device(device_);
  void* data = nullptr;
  if (cudaHostAlloc(&data, std::max<std::size_t>(bytes, 1), cudaHostAllocDefault) != cudaSuccess) {
    cudaGetLastError();  // the system locks no more pages: ordinary ones are slower, but do
    return {new std::byte[bytes], [](const std::byte* buffer) { delete[] buffer; }, bytes};
  }
  const auto release = [](std::byte* buffer) { cudaFreeHost(buffer); };
  return {static_cast<std::byte*>(data), release, bytes};
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
