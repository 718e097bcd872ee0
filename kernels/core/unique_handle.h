#pragma once

#include <utility>

namespace quern {

/// Sole owner of a C library's handle (stream, communicator, dataset, descriptor). Traits give
/// `Handle`, `static Handle none() noexcept` and `static void close(Handle) noexcept`.
/// Closing here ignores failure: where it matters, release() and close with a check.
template <class Traits>
class UniqueHandle {
 public:
  using Handle = typename Traits::Handle;

  UniqueHandle() noexcept = default;
  explicit UniqueHandle(Handle handle) noexcept : handle_(handle) {}
  ~UniqueHandle() { reset(); }
  UniqueHandle(UniqueHandle&& other) noexcept : handle_(other.release()) {}
  UniqueHandle& operator=(UniqueHandle&& other) noexcept {
    if (this != &other) reset(other.release());
    return *this;
  }
  UniqueHandle(const UniqueHandle&) = delete;             // one handle, one owner
  UniqueHandle& operator=(const UniqueHandle&) = delete;  // likewise

  Handle get() const noexcept { return handle_; }
  explicit operator bool() const noexcept { return handle_ != Traits::none(); }

  /// Gives up ownership.
  [[nodiscard]] Handle release() noexcept { return std::exchange(handle_, Traits::none()); }
  void reset(Handle handle = Traits::none()) noexcept {
    const Handle old = std::exchange(handle_, handle);
    if (old != Traits::none()) Traits::close(old);
  }
  /// For functions that return a handle through a pointer; closes the present one first.
  [[nodiscard]] Handle* put() noexcept {
    reset();
    return &handle_;
  }

 private:
  Handle handle_ = Traits::none();
};

}  // namespace quern
