#include "kernels/cuda/blas.h"
#include "kernels/cuda/convert.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/layer_ops.h"

namespace quern {

void CudaLayerOps::do_linear(ConstTensorView x, ConstTensorView weight,
                             std::optional<ConstTensorView> bias, TensorView out) {
  expect_activation(context_, "linear", {x});
  if (out.dtype != DType::f32) expect_activation(context_, "linear", {out});
  const Converted prepared(context_, weight, context_.activation);
  if (bias) {
    const Converted prepared_bias(context_, *bias, out.dtype);
    return multiply_and_add(context_, x, prepared.view(), prepared_bias.view(), out);
  }
  const ProductShape shape{
      .rows = x.shape[0], .columns = weight.shape[0], .depth = x.shape[1], .transposed_b = true};
  multiply(context_, shape, x, prepared.view(), out);
}

}  // namespace quern
