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
    add_bias_kernel(const float* products, const float* bias, std::int64_t width, T* out) {
  const float* from = products + blockIdx.x * width;
  T* to = out + blockIdx.x * width;
  for (std::int64_t i = threadIdx.x; i < width; i += kThreads) to[i] = narrow<T>(from[i] + bias[i]);
}

/// out [M, N] = products [M, N] f32 + bias [N]; both may be the same memory.
void add_bias(CudaContext& context, ConstTensorView products, ConstTensorView bias,
              TensorView out) {
  const Converted values(context, bias, DType::f32);
  with_activation(out.dtype, [&]<typename T>(TypeTag<T>) {
    add_bias_kernel<T><<<block_count(out.shape[0], 1), kThreads, 0, context.stream>>>(
        products.as<float>(), values.view().as<float>(), out.shape[1], out.as<T>());
  });
  check_launch("linear");
}

}  // namespace

void CudaLayerOps::do_linear(ConstTensorView x, ConstTensorView weight,
                             std::optional<ConstTensorView> bias, TensorView out) {
  expect_activation(context_, "linear", {x});
  if (out.dtype != DType::f32) expect_activation(context_, "linear", {out});
  const Converted prepared(context_, weight, context_.activation);
  const ProductShape shape{
      .rows = x.shape[0], .columns = weight.shape[0], .depth = x.shape[1], .transposed_b = true};
  if (!bias) return multiply(context_, shape, x, prepared.view(), out);
  // Rounded once: cuBLAS may round the product of few rows before it adds what is there.
  Tensor single;
  if (out.dtype != DType::f32) single = context_.memory.allocate(DType::f32, out.shape);
  const TensorView products = out.dtype == DType::f32 ? out : single.view();
  multiply(context_, shape, x, prepared.view(), products);
  add_bias(context_, products, *bias, out);
}

}  // namespace quern
