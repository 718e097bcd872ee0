#include "kernels/core/tensor.h"

#include <fmt/format.h>

#include "kernels/core/error.h"

namespace quern {
namespace {

/// Byte offset of row `begin` and the shape of `count` rows.
std::pair<std::size_t, Shape> row_window(const ConstTensorView& view, std::int64_t begin,
                                         std::int64_t count) {
  if (view.shape.rank() == 0 || begin < 0 || count < 0 || begin > view.shape[0] - count) {
    throw ShapeError(fmt::format("rows [{}, {}) of a tensor of shape {}", begin, begin + count,
                                 view.shape.text()));
  }
  std::vector<std::int64_t> dims(view.shape.dims().begin(), view.shape.dims().end());
  const std::int64_t rows = dims[0];
  dims[0] = count;
  const std::size_t row_bytes = rows == 0 ? 0 : view.bytes() / static_cast<std::size_t>(rows);
  return {static_cast<std::size_t>(begin) * row_bytes, Shape(dims)};
}

void check_same_elems(const Shape& from, const Shape& to) {
  if (from.elems() != to.elems()) {
    throw ShapeError(fmt::format("reshape: {} does not fit {}", from.text(), to.text()));
  }
}

}  // namespace

ConstTensorView ConstTensorView::rows(std::int64_t begin, std::int64_t count) const {
  const auto [offset, window] = row_window(*this, begin, count);
  return {data + offset, dtype, window};
}

ConstTensorView ConstTensorView::reshaped(Shape new_shape) const {
  check_same_elems(shape, new_shape);
  return {data, dtype, new_shape};
}

TensorView TensorView::rows(std::int64_t begin, std::int64_t count) const {
  const auto [offset, window] = row_window(*this, begin, count);
  return {data + offset, dtype, window};
}

TensorView TensorView::reshaped(Shape new_shape) const {
  check_same_elems(shape, new_shape);
  return {data, dtype, new_shape};
}

HostTensor::HostTensor(DType type, const Shape& dims)
    : dtype(type), shape(dims), bytes(static_cast<std::size_t>(dims.elems()) * dtype_bytes(type)) {}

void HostTensor::check_element_size(std::size_t element_bytes) const {
  ensure(element_bytes == dtype_bytes(dtype), "an element type of the tensor's size");
}

}  // namespace quern
