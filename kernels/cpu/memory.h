#pragma once

#include "kernels/memory.h"

namespace quern {

/// Ordinary host memory. Every operation is done when it returns. Allocation and release may
/// happen on any thread; the counts stay right.
class CpuMemory final : public Memory {
 public:
  using Memory::Memory;

  void synchronize() override {}
  std::byte* host_address(TensorView view) noexcept override { return view.data; }

 private:
  std::byte* do_allocate(std::size_t bytes) override;
  void do_free(std::byte* data, std::size_t bytes) noexcept override;
  void do_upload(std::span<const std::byte> host, std::byte* device) override;
  void do_download(const std::byte* device, std::span<std::byte> host) override;
  void do_copy(const std::byte* from, std::byte* to, std::size_t bytes) override;
  void do_clear(std::byte* data, std::size_t bytes) override;
};

}  // namespace quern
