#pragma once

#include <cstdint>

#include "kernels/core/tensor.h"

namespace quern {

/// LayerOps::rotate for sign 1, its gradient for sign -1, which is that of the sines. On `threads`
/// threads.
void rotate_heads(TensorView x, ConstTensorView table, std::int64_t head_dim, float sign,
                  int threads);

}  // namespace quern
