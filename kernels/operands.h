#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <string>

#include "kernels/core/error.h"
#include "kernels/core/tensor.h"

namespace quern {

struct AttentionShape;
struct GramView;

/// One argument of an operation, named for the error message.
struct Operand {
  const char* name;
  ConstTensorView view;
};

/// Throws ShapeError unless `holds`: the operation, what it expects and the operands it got.
inline void expect_operands(bool holds, const char* operation, const char* expectation,
                            std::initializer_list<Operand> operands) {
  if (holds) return;
  std::string text = fmt::format("{}: expected {}; got", operation, expectation);
  for (const Operand& operand : operands) {
    fmt::format_to(std::back_inserter(text), " {} {} {}", operand.name,
                   dtype_name(operand.view.dtype), operand.view.shape.text());
  }
  throw ShapeError(text + "; this is a bug in Quern, please report it");
}

/// Throws ShapeError unless the heads and lengths are such as attention can work on.
void expect_geometry(const char* operation, const AttentionShape& shape);

inline bool same_type_and_shape(const ConstTensorView& a, const ConstTensorView& b) {
  return a.dtype == b.dtype && a.shape == b.shape;
}

inline bool is_float_matrix(const ConstTensorView& view) {
  return view.shape.rank() == 2 && is_plain_float(view.dtype);
}

inline bool is_tensor(const ConstTensorView& view, DType dtype, const Shape& shape) {
  return view.dtype == dtype && view.shape == shape;
}

/// Whether the views are those of an H of `channels` channels.
bool is_gram(const GramView& gram, std::int64_t channels);

inline bool is_float_tensor(const ConstTensorView& view, const Shape& shape) {
  return is_plain_float(view.dtype) && view.shape == shape;
}

}  // namespace quern
