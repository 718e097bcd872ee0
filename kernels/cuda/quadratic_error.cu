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
constexpr std::int64_t kChunk = 256;          // rows in one product
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

/// The floats of some rows, in whole chunks: first those of differences, then those of weights.
struct LoadedRows {
  float* differences;
  float* weights;
  std::int64_t columns;
};

/// Block n: row n; zeros beyond `rows`.
template <typename T>
__global__ void load_kernel(const T* weight, const float* quantized, std::int64_t rows,
                            LoadedRows out) {
  const std::int64_t begin = std::int64_t{blockIdx.x} * out.columns;
  const bool inside = blockIdx.x < rows;
  for (std::int64_t k = begin + threadIdx.x; k < begin + out.columns; k += kThreads) {
    const double w = inside ? to_double(weight[k]) : 0.0;
    const double q = inside ? static_cast<double>(quantized[k]) : 0.0;
    out.differences[k] = round_to_tf32(w - q);
    out.weights[k] = round_to_tf32(w);
  }
}

/// Block (n, i): row n of differences (i = 0) or weights. result[2 n + i] = its dot product with x
/// over the columns [begin, begin + width), or what was there plus that.
__global__ void dot_kernel(const float* product, LoadedRows x, std::int64_t begin,
                           std::int64_t width, double* result) {
  const std::int64_t row = blockIdx.x;
  const std::int64_t chunk_rows = (gridDim.x + kChunk - 1) / kChunk * kChunk;
  const float* a = product + (blockIdx.y * chunk_rows + row) * kPanel;
  const float* b = (blockIdx.y == 0 ? x.differences : x.weights) + row * x.columns + begin;
  double sum = 0.0;
  for (std::int64_t k = threadIdx.x; k < width; k += kThreads) {
    sum += static_cast<double>(a[k]) * static_cast<double>(b[k]);
  }
  sum = block_sum(sum);
  if (threadIdx.x != 0) return;
  double& total = result[2 * row + blockIdx.y];
  total = begin == 0 ? sum : total + sum;
}

/// Rows [first, first + rows) of the result.
void measure_rows(CudaContext& context, const QuadraticErrorInput& input, ConstTensorView upper,
                  std::int64_t first, std::int64_t rows, double* result) {
  const std::int64_t columns = input.weight.shape[1];
  const std::int64_t chunk_rows = (rows + kChunk - 1) / kChunk * kChunk;
  Tensor loaded = context.memory.allocate(DType::f32, {2 * chunk_rows, columns});
  Tensor product = context.memory.allocate(DType::f32, {2 * chunk_rows, kPanel});
  auto* x = loaded.view().as<float>();
  const LoadedRows of_rows{x, x + chunk_rows * columns, columns};
  with_plain_float(input.weight.dtype, [&](auto element) {
    using T = typename decltype(element)::Type;
    load_kernel<<<static_cast<unsigned>(chunk_rows), kThreads, 0, context.stream>>>(
        input.weight.as<T>() + first * columns, input.quantized.as<float>() + first * columns, rows,
        of_rows);
  });
  check_launch("quadratic_error");
  for (std::int64_t begin = 0; begin < columns; begin += kPanel) {
    const std::int64_t width = std::min(kPanel, columns - begin);
    multiply_chunks_tf32(context, {2 * chunk_rows, width, begin + width, false}, kChunk,
                         {x, columns}, {upper.as<float>() + begin, columns},
                         {product.view().as<float>(), kPanel});
    dot_kernel<<<dim3(static_cast<unsigned>(rows), 2), kThreads, 0, context.stream>>>(
        product.view().as<float>(), of_rows, begin, width, result + 2 * first);
    check_launch("quadratic_error");
  }
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
  const std::int64_t panel = std::max<std::int64_t>(1, kWorkElems / columns / kChunk) * kChunk;
  for (std::int64_t first = 0; first < rows; first += panel) {
    measure_rows(context, input, folded.view(), first, std::min(panel, rows - first), result);
  }
}

}  // namespace quern::gpu
