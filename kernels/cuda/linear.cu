#include "kernels/cuda/blas.h"
#include "kernels/cuda/convert.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/layer_ops.h"

namespace quern {
namespace {

constexpr int kThreads = 256;

/// A block writes one row.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    repeat_row_kernel(const float* row, std::int64_t width, T* out) {
  T* to = out + blockIdx.x * width;
  for (std::int64_t i = threadIdx.x; i < width; i += kThreads) to[i] = narrow<T>(row[i]);
}

/// Every row of out = row [N].
void repeat_row(CudaContext& context, ConstTensorView row, TensorView out) {
  const Converted values(context, row, DType::f32);
  with_activation(out.dtype, [&]<typename T>(TypeTag<T>) {
    repeat_row_kernel<T><<<block_count(out.shape[0], 1), kThreads, 0, context.stream>>>(
        values.view().as<float>(), out.shape[1], out.as<T>());
  });
  check_launch("linear");
}

}  // namespace

void CudaLayerOps::do_linear(ConstTensorView x, ConstTensorView weight,
                             std::optional<ConstTensorView> bias, TensorView out) {
  expect_activation(context_, "linear", {x});
  if (out.dtype != DType::f32) expect_activation(context_, "linear", {out});
  const Converted prepared(context_, weight, context_.activation);
  if (bias) repeat_row(context_, *bias, out);
  multiply(context_,
           {.rows = x.shape[0],
            .columns = weight.shape[0],
            .depth = x.shape[1],
            .transposed_b = true,
            .accumulate = bias.has_value()},
           x, prepared.view(), out);
}

}  // namespace quern
