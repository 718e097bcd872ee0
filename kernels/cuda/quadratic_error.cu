#include <algorithm>

#include "kernels/cuda/errors.h"
#include "kernels/cuda/numeric.cuh"
#include "kernels/cuda/products.h"
#include "kernels/cuda/quadratic_error.h"

namespace quern::gpu {
namespace {

using namespace numeric;

constexpr int kThreads = 256;
constexpr std::int64_t kPanel = 1024;         // columns of H in one product
constexpr std::int64_t kWorkElems = 1 << 26;  // of the rows held as floats

/// The nearest value with the 11 significant bits of the tensor cores' TF32.
__device__ float round_to_tf32(double value) {
  const auto single = static_cast<float>(value);
  std::uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(single));
  return __uint_as_float(rounded);
}

/// Thread x: column j, block y: row i. U with x H x^T = x U x^T: the upper triangle with doubled
/// off-diagonals, zeros below.
__global__ void fold_kernel(const std::int64_t* sums, const std::int32_t* exponents,
                            std::int64_t columns, float* upper) {
  const std::int64_t j = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (j >= columns) return;
  const double column_scale = power_of_two(-exponents[j]);
  for (std::int64_t i = blockIdx.y; i < columns; i += gridDim.y) {
    double value = 0.0;
    if (i <= j) {
      value = static_cast<double>(sums[i * columns + j]) * power_of_two(-exponents[i]) *
              (i == j ? column_scale : 2.0 * column_scale);
    }
    upper[i * columns + j] = round_to_tf32(value);
  }
}

/// One block per row: differences[n] = weight - quantized, weights[n] = weight.
template <typename T>
__global__ void load_kernel(const T* weight, const float* quantized, std::int64_t columns,
                            float* differences, float* weights) {
  const std::int64_t begin = std::int64_t{blockIdx.x} * columns;
  for (std::int64_t k = threadIdx.x; k < columns; k += kThreads) {
    const double w = to_double(weight[begin + k]);
    differences[begin + k] = round_to_tf32(w - static_cast<double>(quantized[begin + k]));
    weights[begin + k] = round_to_tf32(w);
  }
}

/// One block per row: sums[n] += product[n] . x[n] over the panel's columns.
__global__ void dot_kernel(const float* product, const float* x, std::int64_t width,
                           std::int64_t columns, double* sums) {
  const std::int64_t row = blockIdx.x;
  double sum = 0.0;
  for (std::int64_t k = threadIdx.x; k < width; k += kThreads) {
    sum +=
        static_cast<double>(product[row * kPanel + k]) * static_cast<double>(x[row * columns + k]);
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) sums[row] += sum;
}

/// Block b adds rows [b rows, (b + 1) rows) of the panel to result[b].
__global__ void total_kernel(const double* sums, std::int64_t rows, double* result) {
  double sum = 0.0;
  for (std::int64_t row = threadIdx.x; row < rows; row += kThreads) {
    sum += sums[blockIdx.x * rows + row];
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) result[blockIdx.x] += sum;
}

/// Adds rows [first, first + rows) to the result.
void add_rows(CudaContext& context, const QuadraticErrorInput& input, ConstTensorView upper,
              std::int64_t first, std::int64_t rows, double* result) {
  const std::int64_t columns = input.weight.shape[1];
  Memory& memory = context.memory;
  Tensor loaded = memory.allocate(DType::f32, {2 * rows, columns});
  Tensor product = memory.allocate(DType::f32, {2 * rows, kPanel});
  Tensor sums = memory.allocate(DType::f64, {2 * rows});
  memory.clear(sums.view());
  auto* x = loaded.view().as<float>();
  with_plain_float(input.weight.dtype, [&](auto element) {
    using T = typename decltype(element)::Type;
    load_kernel<<<static_cast<unsigned>(rows), kThreads, 0, context.stream>>>(
        input.weight.as<T>() + first * columns, input.quantized.as<float>() + first * columns,
        columns, x, x + rows * columns);
  });
  check_launch("quadratic_error");
  for (std::int64_t begin = 0; begin < columns; begin += kPanel) {
    const std::int64_t width = std::min(kPanel, columns - begin);
    multiply_tf32(context, {2 * rows, width, begin + width, false}, {x, columns},
                  {upper.as<float>() + begin, columns}, {product.view().as<float>(), kPanel});
    dot_kernel<<<static_cast<unsigned>(2 * rows), kThreads, 0, context.stream>>>(
        product.view().as<float>(), x + begin, width, columns, sums.view().as<double>());
    check_launch("quadratic_error");
  }
  total_kernel<<<2, kThreads, 0, context.stream>>>(sums.view().as<double>(), rows, result);
  check_launch("quadratic_error");
}

}  // namespace

void quadratic_error_of_rows(CudaContext& context, const QuadraticErrorInput& input,
                             double* result) {
  const std::int64_t rows = input.weight.shape[0];
  const std::int64_t columns = input.weight.shape[1];
  Tensor folded = context.memory.allocate(DType::f32, {columns, columns});
  const dim3 grid(block_count(columns, kThreads),
                  static_cast<unsigned>(std::min<std::int64_t>(columns, 1024)));
  fold_kernel<<<grid, kThreads, 0, context.stream>>>(input.gram.sums.as<std::int64_t>(),
                                                     input.gram.exponents.as<std::int32_t>(),
                                                     columns, folded.view().as<float>());
  check_launch("quadratic_error");
  context.memory.clear({reinterpret_cast<std::byte*>(result), DType::f64, {2}});
  const std::int64_t panel = std::max<std::int64_t>(1, kWorkElems / columns);
  for (std::int64_t first = 0; first < rows; first += panel) {
    add_rows(context, input, folded.view(), first, std::min(panel, rows - first), result);
  }
}

}  // namespace quern::gpu
