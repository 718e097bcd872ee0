#include "kernels/core/error.h"
#include "kernels/cuda/bias.h"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/launch.h"

namespace quern {
namespace {

constexpr int kThreads = 256;

/// A block fills one row.
__global__ void __launch_bounds__(kThreads)
    fill_rows_kernel(const double* bias, std::int64_t width, double* out) {
  double* row = out + blockIdx.x * width;
  for (std::int64_t i = threadIdx.x; i < width; i += kThreads) row[i] = bias[i];
}

}  // namespace

void fill_rows(CudaContext& context, ConstTensorView bias, TensorView out) {
  ensure(bias.dtype == DType::f64 && out.dtype == DType::f64, "a bias and its rows of f64");
  fill_rows_kernel<<<block_count(out.shape[0], 1), kThreads, 0, context.stream>>>(
      bias.as<double>(), out.shape[1], out.as<double>());
  check_launch("fill rows with a bias");
}

}  // namespace quern
