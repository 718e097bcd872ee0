#include "kernels/cuda/blas.h"
#include "kernels/cuda/convert.h"
#include "kernels/cuda/gradient_ops.h"
#include "kernels/cuda/launch.h"

namespace quern {

void CudaGradientOps::do_linear(ConstTensorView dy, ConstTensorView weight, TensorView dx) {
  expect_activation(context_, "gradient of linear", {dy, dx});
  const Converted prepared(context_, weight, context_.activation);
  multiply(context_, {.rows = dy.shape[0], .columns = weight.shape[1], .depth = dy.shape[1]}, dy,
           prepared.view(), dx);
}

}  // namespace quern
