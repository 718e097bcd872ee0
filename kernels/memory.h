#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <utility>

#include "kernels/core/tensor.h"

namespace quern {

/// Owns host memory that a device reads and writes at full speed; made by Memory::allocate_host,
/// freed on destruction. Move-only.
class HostBuffer {
 public:
  using Deleter = std::function<void(std::byte*)>;

  HostBuffer() = default;
  HostBuffer(std::byte* data, Deleter deleter, std::size_t size)
      : data_(data, std::move(deleter)), size_(size) {}

  std::size_t size() const noexcept { return data_ == nullptr ? 0 : size_; }
  /// The first `count` bytes, at most size().
  std::span<std::byte> first(std::size_t count) noexcept { return {data_.get(), count}; }
  std::span<const std::byte> first(std::size_t count) const noexcept {
    return {data_.get(), count};
  }

 private:
  std::unique_ptr<std::byte, Deleter> data_{nullptr, [](std::byte*) {}};
  std::size_t size_ = 0;
};

/// The memory of one device and the stream that orders work on it. Everything a Backend does is
/// asynchronous on this one stream: operations run in the order issued, and the host may only look
/// at results after synchronize(). Public methods check and count, private virtuals
/// work.
class Memory {
 public:
  static constexpr std::size_t unlimited = std::numeric_limits<std::size_t>::max();

  /// limit_bytes: of all tensors together at any time.
  explicit Memory(std::size_t limit_bytes = unlimited) : limit_bytes_(limit_bytes) {}
  virtual ~Memory() = default;
  Memory(const Memory&) = delete;             // one stream, one owner
  Memory& operator=(const Memory&) = delete;  // likewise

  /// Uninitialised elements, aligned to 256 bytes. The tensor must not outlive this object.
  /// Throws MemoryError with the bytes asked for, in use and allowed when the limit is reached or
  /// the device is full.
  Tensor allocate(DType dtype, const Shape& shape);
  /// Page-locked where the device gains by it: upload and download then do not hold the caller.
  /// Uninitialised; must not outlive this object, nor be freed before the last transfer is done.
  /// Throws MemoryError when the host is full.
  HostBuffer allocate_host(std::size_t bytes);

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

  /// Bytes of tensors now, and the largest value so far.
  std::size_t used_bytes() const noexcept { return used_bytes_; }
  std::size_t peak_bytes() const noexcept { return peak_bytes_; }
  /// What tensors may take at most, and what they may still take.
  std::size_t limit_bytes() const noexcept { return limit_bytes_; }
  std::size_t free_bytes() const noexcept {
    const std::size_t used = used_bytes_;
    return limit_bytes_ > used ? limit_bytes_ - used : 0;
  }

  /// allocate + upload + synchronize.
  Tensor to_device(const HostTensor& host);
  /// download + synchronize.
  HostTensor to_host(ConstTensorView device);

 private:
  virtual std::byte* do_allocate(std::size_t bytes) = 0;
  virtual void do_free(std::byte* data, std::size_t bytes) noexcept = 0;
  virtual HostBuffer do_allocate_host(std::size_t bytes);  // ordinary memory
  virtual void do_upload(std::span<const std::byte> host, std::byte* device) = 0;
  virtual void do_download(const std::byte* device, std::span<std::byte> host) = 0;
  virtual void do_copy(const std::byte* from, std::byte* to, std::size_t bytes) = 0;
  virtual void do_clear(std::byte* data, std::size_t bytes) = 0;

  void count(std::size_t bytes) noexcept;

  std::size_t limit_bytes_;
  std::atomic<std::size_t> used_bytes_{0};
  std::atomic<std::size_t> peak_bytes_{0};
};

}  // namespace quern
