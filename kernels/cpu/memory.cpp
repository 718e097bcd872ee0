#include "kernels/cpu/memory.h"

#include <fmt/format.h>

#include <cstring>
#include <new>

#include "kernels/core/error.h"

namespace quern {
namespace {

constexpr std::align_val_t kAlignment{256};

}  // namespace

std::byte* CpuMemory::do_allocate(std::size_t bytes) {
  void* data = ::operator new(bytes, kAlignment, std::nothrow);
  if (data == nullptr) {
    throw MemoryError(fmt::format(
        "host memory: {} bytes refused by the system while {} are in use; use a smaller "
        "micro_batch, a machine with more memory or fewer ranks on it",
        bytes, used_bytes()));
  }
  return static_cast<std::byte*>(data);
}

void CpuMemory::do_free(std::byte* data, std::size_t /*bytes*/) noexcept {
  ::operator delete(data, kAlignment);
}

void CpuMemory::do_upload(std::span<const std::byte> host, std::byte* device) {
  std::memcpy(device, host.data(), host.size());
}

void CpuMemory::do_download(const std::byte* device, std::span<std::byte> host) {
  std::memcpy(host.data(), device, host.size());
}

void CpuMemory::do_copy(const std::byte* from, std::byte* to, std::size_t bytes) {
  std::memcpy(to, from, bytes);
}

void CpuMemory::do_clear(std::byte* data, std::size_t bytes) {
  std::memset(data, 0, bytes);
}

}  // namespace quern
