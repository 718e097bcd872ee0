#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <initializer_list>

#include "kernels/cuda/context.h"

namespace quern {

// This header keeps fmt out of .cu files: device compilers do not take its format strings.

/// Blocks of `size` that cover `count`, as a grid's first extent. InternalError from 2^31 on.
unsigned block_count(std::int64_t count, std::int64_t size);

/// Throws ShapeError unless all views have the backend's activation type.
void expect_activation(const CudaContext& context, const char* operation,
                       std::initializer_list<ConstTensorView> views);

}  // namespace quern
