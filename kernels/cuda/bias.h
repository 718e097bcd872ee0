#pragma once

#include "kernels/cuda/context.h"

namespace quern {

/// Every row of out [M, N] f64 = bias [N] f64. Asynchronous.
void fill_rows(CudaContext& context, ConstTensorView bias, TensorView out);

}  // namespace quern
