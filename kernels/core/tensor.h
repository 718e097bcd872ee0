#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "kernels/core/dtype.h"
#include "kernels/core/shape.h"

namespace quern {

/// A window on contiguous, row-major elements in some backend's memory; owns nothing. The pointer
/// may be a device address: only kernels/ may dereference it.
struct ConstTensorView {
  const std::byte* data = nullptr;
  DType dtype = DType::f32;
  Shape shape{0};

  std::int64_t elems() const noexcept { return shape.elems(); }
  std::size_t bytes() const noexcept {
    return static_cast<std::size_t>(shape.elems()) * dtype_bytes(dtype);
  }
  /// Rows [begin, begin + count) of the first axis. Throws ShapeError when out of range.
  ConstTensorView rows(std::int64_t begin, std::int64_t count) const;
  /// Same elements, other shape. Throws ShapeError if the element counts differ.
  ConstTensorView reshaped(Shape new_shape) const;

  template <typename T>
  const T* as() const noexcept {
    return reinterpret_cast<const T*>(data);
  }
};

/// As ConstTensorView, writable.
struct TensorView {
  std::byte* data = nullptr;
  DType dtype = DType::f32;
  Shape shape{0};

  operator ConstTensorView() const noexcept { return {data, dtype, shape}; }
  std::int64_t elems() const noexcept { return shape.elems(); }
  std::size_t bytes() const noexcept {
    return static_cast<std::size_t>(shape.elems()) * dtype_bytes(dtype);
  }
  TensorView rows(std::int64_t begin, std::int64_t count) const;
  TensorView reshaped(Shape new_shape) const;

  template <typename T>
  T* as() const noexcept {
    return reinterpret_cast<T*>(data);
  }
};

/// Owns a tensor in a backend's memory; made by Memory::allocate, freed on destruction. Move-only:
/// a copy of device memory must be asked for.
class Tensor {
 public:
  using Deleter = std::function<void(std::byte*)>;

  Tensor() = default;
  Tensor(std::byte* data, Deleter deleter, DType dtype, const Shape& shape)
      : data_(data, std::move(deleter)), dtype_(dtype), shape_(shape) {}

  TensorView view() noexcept { return {data_.get(), dtype_, shape_}; }
  ConstTensorView view() const noexcept { return {data_.get(), dtype_, shape_}; }
  DType dtype() const noexcept { return dtype_; }
  const Shape& shape() const noexcept { return shape_; }
  bool empty() const noexcept { return data_ == nullptr; }

 private:
  std::unique_ptr<std::byte, Deleter> data_{nullptr, [](std::byte*) {}};
  DType dtype_ = DType::f32;
  Shape shape_{0};
};

/// A tensor in ordinary host memory, copyable; what files hold and what ranks exchange.
struct HostTensor {
  DType dtype = DType::f32;
  Shape shape{0};
  std::vector<std::byte> bytes;

  HostTensor() = default;
  /// Zero-filled.
  HostTensor(DType type, const Shape& dims);

  /// Typed access. Throws InternalError unless sizeof(T) is the element size of dtype.
  template <typename T>
  std::span<T> as() {
    check_element_size(sizeof(T));
    return {reinterpret_cast<T*>(bytes.data()), bytes.size() / sizeof(T)};
  }
  template <typename T>
  std::span<const T> as() const {
    check_element_size(sizeof(T));
    return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};
  }

 private:
  void check_element_size(std::size_t element_bytes) const;
};

}  // namespace quern
