#include "kernels/cuda/blas.h"

#include <fmt/format.h>

#include <cstdint>
#include <limits>

#include "kernels/core/error.h"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/lt_product.h"

namespace quern {
namespace {

// cuBLAS counts down columns: to it a row-major matrix is the transposed one, so that
// c = a b becomes c^T = b^T a^T, and a value for each column of c one for each row of c^T.

int blas_extent(std::int64_t extent) {
  ensure(extent <= std::numeric_limits<int>::max(), "matrix extents below 2^31");
  return static_cast<int>(extent);
}

LtMatrix layout_of(ConstTensorView matrix) {
  const std::int64_t columns = blas_extent(matrix.shape[1]);
  return {cuda_type(matrix.dtype), columns, blas_extent(matrix.shape[0]), columns};
}

int cublas_property(libraryPropertyType property) {
  int value = 0;
  check_cuda(cublasGetProperty(property, &value), "read cuBLAS version");
  return value;
}

}  // namespace

UniqueCublas make_cublas(cudaStream_t stream, TensorView workspace) {
  UniqueCublas handle;
  check_cuda(cublasCreate(handle.put()), "start cuBLAS");
  check_cuda(cublasSetStream(handle.get(), stream), "start cuBLAS");
  check_cuda(cublasSetWorkspace(handle.get(), workspace.data, workspace.bytes()), "start cuBLAS");
  check_cuda(cublasSetAtomicsMode(handle.get(), CUBLAS_ATOMICS_NOT_ALLOWED), "start cuBLAS");
  check_cuda(cublasSetMathMode(handle.get(), static_cast<cublasMath_t>(
                                                 CUBLAS_DEFAULT_MATH |
                                                 CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION)),
             "start cuBLAS");
  return handle;
}

cudaDataType_t cuda_type(DType dtype) {
  if (dtype == DType::bf16) return CUDA_R_16BF;
  if (dtype == DType::f16) return CUDA_R_16F;
  if (dtype == DType::f64) return CUDA_R_64F;
  ensure(dtype == DType::f32, "a matrix of bf16, f16, f32 or f64");
  return CUDA_R_32F;
}

BlasSums blas_sums(DType operands) {
  static constexpr float kSingle[] = {0.0F, 1.0F};
  static constexpr double kDouble[] = {0.0, 1.0};
  if (operands == DType::f64) return {CUBLAS_COMPUTE_64F, &kDouble[0], &kDouble[1]};
  return {CUBLAS_COMPUTE_32F, &kSingle[0], &kSingle[1]};
}

void multiply(CudaContext& context, const ProductShape& shape, ConstTensorView a, ConstTensorView b,
              TensorView c) {
  const int rows = blas_extent(shape.rows);
  const int columns = blas_extent(shape.columns);
  const int depth = blas_extent(shape.depth);
  const BlasSums sums = blas_sums(a.dtype);
  const cublasStatus_t status = cublasGemmEx(
      context.cublas, shape.transposed_b ? CUBLAS_OP_T : CUBLAS_OP_N, CUBLAS_OP_N, columns, rows,
      depth, sums.one, b.data, cuda_type(b.dtype), shape.transposed_b ? depth : columns, a.data,
      cuda_type(a.dtype), depth, shape.accumulate ? sums.one : sums.zero, c.data,
      cuda_type(c.dtype), columns, sums.type, CUBLAS_GEMM_DEFAULT);
  check_cuda(status, "matrix product");
}

void multiply_and_add(CudaContext& context, ConstTensorView x, ConstTensorView weight,
                      ConstTensorView bias, TensorView out) {
  ensure(bias.dtype == out.dtype, "a bias of the result's type");
  multiply_lt(context,
              {.a = weight.data,
               .a_layout = layout_of(weight),
               .transposed_a = true,
               .b = x.data,
               .b_layout = layout_of(x),
               .c = out.data,
               .c_layout = layout_of(out),
               .bias = bias.data},
              "matrix product with bias");
}

std::string cublas_name() {
  return fmt::format("cuBLAS {}.{}.{}", cublas_property(MAJOR_VERSION),
                     cublas_property(MINOR_VERSION), cublas_property(PATCH_LEVEL));
}

}  // namespace quern
