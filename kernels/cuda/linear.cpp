#include "kernels/cuda/bias.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/convert.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/layer_ops.h"

namespace quern {

void CudaLayerOps::do_linear(ConstTensorView x, ConstTensorView weight,
                             std::optional<ConstTensorView> bias, TensorView out) {
  expect_activation(context_, "linear", {x});
  if (out.dtype != DType::f32) expect_activation(context_, "linear", {out});
  const bool doubles = x.dtype == DType::f64;
  if (doubles && out.dtype == DType::f32) {  // cuBLAS does not round from the one to the other
    Tensor exact = context_.memory.allocate(DType::f64, out.shape);
    do_linear(x, weight, bias, exact.view());
    return convert_elements(context_, exact.view(), out);
  }
  const Converted prepared(context_, weight, context_.activation);
  ProductShape shape{
      .rows = x.shape[0], .columns = weight.shape[0], .depth = x.shape[1], .transposed_b = true};
  if (bias) {
    const Converted prepared_bias(context_, *bias, out.dtype);
    if (!doubles) return multiply_and_add(context_, x, prepared.view(), prepared_bias.view(), out);
    fill_rows(context_, prepared_bias.view(), out);  // cublasLt adds none in float64
    shape.accumulate = true;
  }
  multiply(context_, shape, x, prepared.view(), out);
}

}  // namespace quern
