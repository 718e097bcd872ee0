#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

namespace quern {

/// Up to four dimensions, row major, by value. A rank-0 shape holds one element.
class Shape {
 public:
  static constexpr std::size_t max_rank = 4;

  Shape() = default;
  /// Throws ShapeError on a negative dimension, more than max_rank of them, or an element count
  /// that does not fit int64.
  Shape(std::initializer_list<std::int64_t> dims);
  explicit Shape(std::span<const std::int64_t> dims);

  std::size_t rank() const noexcept { return rank_; }
  std::int64_t operator[](std::size_t axis) const;
  std::int64_t elems() const noexcept { return elems_; }
  std::span<const std::int64_t> dims() const noexcept { return {dims_.data(), rank_}; }
  /// "[4096, 11008]"
  std::string text() const;

  bool operator==(const Shape& other) const noexcept;

 private:
  std::array<std::int64_t, max_rank> dims_{};
  std::size_t rank_ = 0;
  std::int64_t elems_ = 1;
};

}  // namespace quern
