#include "tests/support/host_memory.h"

#include <cstring>
#include <new>

namespace quern::test {
namespace {

constexpr std::align_val_t kAlignment{256};

}  // namespace

std::byte* HostMemory::do_allocate(std::size_t bytes) {
  return static_cast<std::byte*>(::operator new(bytes, kAlignment));
}

void HostMemory::do_free(std::byte* data, std::size_t /*bytes*/) noexcept {
  ::operator delete(data, kAlignment);
}

void HostMemory::do_upload(std::span<const std::byte> host, std::byte* device) {
  std::memcpy(device, host.data(), host.size());
}

void HostMemory::do_download(const std::byte* device, std::span<std::byte> host) {
  std::memcpy(host.data(), device, host.size());
}

void HostMemory::do_copy(const std::byte* from, std::byte* to, std::size_t bytes) {
  std::memcpy(to, from, bytes);
}

void HostMemory::do_clear(std::byte* data, std::size_t bytes) {
  std::memset(data, 0, bytes);
}

}  // namespace quern::test
