#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/core/tensor.h"

namespace quern {

/// The memory of one device and the stream that orders work on it. Everything a Backend does is
/// asynchronous on this one stream: operations run in the order issued, and the host may only look
/// at results after synchronize(). Public methods check, private virtuals work.
class Memory {
 public:
  virtual ~Memory() = default;
  Memory() = default;
  Memory(const Memory&) = delete;             // one stream, one owner
  Memory& operator=(const Memory&) = delete;  // likewise

  /// Uninitialised elements, aligned to 256 bytes. The tensor must not outlive this object.
  /// Throws MemoryError with the bytes asked for when the device is full.
  Tensor allocate(DType dtype, const Shape& shape);

  /// Asynchronous; `host` must stay alive and unchanged until synchronize().
  /// Throws ShapeError unless host.size() == device.bytes().
  void upload(std::span<const std::byte> host, TensorView device);
  /// Asynchronous; `host` is valid after synchronize(). Throws ShapeError on another size.
  void download(ConstTensorView device, std::span<std::byte> host);
  /// Device to device, same type and element count, no overlap. Asynchronous.
  void copy(ConstTensorView from, TensorView to);
  /// Sets every byte to zero. Asynchronous.
  void clear(TensorView view);

  /// Waits for everything issued so far. Throws DeviceError if any of it failed.
  virtual void synchronize() = 0;

  /// The same bytes as seen by the host, or nullptr when the host cannot address them. Lets a
  /// host communicator skip its staging copy; valid only after synchronize().
  virtual std::byte* host_address(TensorView view) noexcept = 0;

  /// Bytes handed out now, and the largest value so far.
  virtual std::size_t used_bytes() const noexcept = 0;
  virtual std::size_t peak_bytes() const noexcept = 0;

  /// allocate + upload + synchronize.
  Tensor to_device(const HostTensor& host);
  /// download + synchronize.
  HostTensor to_host(ConstTensorView device);

 private:
  virtual std::byte* do_allocate(std::size_t bytes) = 0;
  virtual void do_free(std::byte* data, std::size_t bytes) noexcept = 0;
  virtual void do_upload(std::span<const std::byte> host, std::byte* device) = 0;
  virtual void do_download(const std::byte* device, std::span<std::byte> host) = 0;
  virtual void do_copy(const std::byte* from, std::byte* to, std::size_t bytes) = 0;
  virtual void do_clear(std::byte* data, std::size_t bytes) = 0;
};

}  // namespace quern
