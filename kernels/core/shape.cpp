#include "kernels/core/shape.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/core/error.h"

namespace quern {
namespace {

std::string list_text(std::span<const std::int64_t> dims) {
  std::string text;
  for (const std::int64_t dim : dims) text += (text.empty() ? "" : ", ") + std::to_string(dim);
  return "[" + text + "]";
}

}  // namespace

Shape::Shape(std::initializer_list<std::int64_t> dims)
    : Shape(std::span<const std::int64_t>(dims.begin(), dims.size())) {}

Shape::Shape(std::span<const std::int64_t> dims) : rank_(dims.size()) {
  if (dims.size() > max_rank) {
    throw ShapeError(
        fmt::format("shape: {} dimensions, at most {} are supported", dims.size(), max_rank));
  }
  for (std::size_t axis = 0; axis < dims.size(); ++axis) {
    if (dims[axis] < 0 || __builtin_mul_overflow(elems_, dims[axis], &elems_)) {
      throw ShapeError(fmt::format("shape: {} is negative or too large", list_text(dims)));
    }
    dims_[axis] = dims[axis];
  }
}

std::int64_t Shape::operator[](std::size_t axis) const {
  ensure(axis < rank_, "an axis inside the shape");
  return dims_[axis];
}

std::string Shape::text() const {
  return list_text(dims());
}

bool Shape::operator==(const Shape& other) const noexcept {
  return std::ranges::equal(dims(), other.dims());
}

}  // namespace quern
