#pragma once

#include "kernels/cuda/context.h"

namespace quern {

enum class Turn : std::uint8_t { forward, back };

/// LayerOps::rotate, or its inverse.
void rotate_heads(CudaContext& context, TensorView x, ConstTensorView table, std::int64_t head_dim,
                  Turn turn);

}  // namespace quern
