#pragma once

#include "kernels/memory.h"

namespace quern::test {

/// Ordinary host memory as a device; with Addressing::hidden it behaves like one the host cannot
/// look into, so that callers have to stage.
class HostMemory final : public Memory {
 public:
  enum class Addressing { visible, hidden };

  explicit HostMemory(Addressing addressing = Addressing::visible) : addressing_(addressing) {}

  void synchronize() override {}
  std::byte* host_address(TensorView view) noexcept override {
    return addressing_ == Addressing::visible ? view.data : nullptr;
  }

 private:
  std::byte* do_allocate(std::size_t bytes) override;
  void do_free(std::byte* data, std::size_t bytes) noexcept override;
  void do_upload(std::span<const std::byte> host, std::byte* device) override;
  void do_download(const std::byte* device, std::span<std::byte> host) override;
  void do_copy(const std::byte* from, std::byte* to, std::size_t bytes) override;
  void do_clear(std::byte* data, std::size_t bytes) override;

  Addressing addressing_;
};

}  // namespace quern::test
