#pragma once

#include <string_view>

#include "kernels/core/tensor.h"

namespace quern {

/// Throws InternalError unless 0 <= root < size.
void check_root(std::string_view collective, int root, int size);

/// Throws ShapeError unless the tensor is i64.
void check_summable(const ConstTensorView& tensor);

}  // namespace quern
