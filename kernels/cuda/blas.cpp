#include "kernels/cuda/blas.h"

#include <cublasLt.h>
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>

#include "kernels/core/error.h"
#include "kernels/cuda/errors.h"

namespace quern {
namespace {

// cuBLAS counts down columns: to it a row-major matrix is the transposed one, so that
// c = a b becomes c^T = b^T a^T, and a value for each column of c one for each row of c^T.

constexpr const char* kBiased = "matrix product with bias";

cudaDataType_t cuda_type(DType dtype) {
  if (dtype == DType::bf16) return CUDA_R_16BF;
  if (dtype == DType::f16) return CUDA_R_16F;
  ensure(dtype == DType::f32, "a matrix of bf16, f16 or f32");
  return CUDA_R_32F;
}

int blas_extent(std::int64_t extent) {
  ensure(extent <= std::numeric_limits<int>::max(), "matrix extents below 2^31");
  return static_cast<int>(extent);
}

cublasLtMatrixLayoutOpaque_t layout_of(ConstTensorView matrix) {
  cublasLtMatrixLayoutOpaque_t layout{};
  const int columns = blas_extent(matrix.shape[1]);
  check_cuda(cublasLtMatrixLayoutInit(
                 &layout, cuda_type(matrix.dtype), static_cast<std::uint64_t>(columns),
                 static_cast<std::uint64_t>(blas_extent(matrix.shape[0])), columns),
             kBiased);
  return layout;
}

template <typename T>
void set(cublasLtMatmulDescOpaque_t& product, cublasLtMatmulDescAttributes_t attribute, T value) {
  check_cuda(cublasLtMatmulDescSetAttribute(&product, attribute, &value, sizeof(value)), kBiased);
}

template <typename T>
void set(cublasLtMatmulPreferenceOpaque_t& preference,
         cublasLtMatmulPreferenceAttributes_t attribute, T value) {
  check_cuda(cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof(value)),
             kBiased);
}

/// weight x^T + bias, products and sums in float32. The bias has the result's type by default.
cublasLtMatmulDescOpaque_t describe_product(ConstTensorView bias) {
  cublasLtMatmulDescOpaque_t product{};
  check_cuda(cublasLtMatmulDescInit(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F), kBiased);
  set(product, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  set(product, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
  set(product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias.data);
  return product;
}

/// 16 is what tensor cores want. With a larger figure, where a tensor happens to lie would choose
/// the algorithm and so the bits.
std::uint32_t alignment_bytes(const std::byte* data) {
  constexpr int kMostPower = 4;
  return 1U << std::min(kMostPower, std::countr_zero(reinterpret_cast<std::uintptr_t>(data)));
}

/// Every dot product is formed in one sequence: parts added up "in place" or in the output type
/// would be rounded more than once.
cublasLtMatmulPreferenceOpaque_t preference_for(ConstTensorView x, ConstTensorView weight,
                                                ConstTensorView out, std::size_t workspace_bytes) {
  cublasLtMatmulPreferenceOpaque_t preference{};
  check_cuda(cublasLtMatmulPreferenceInit(&preference), kBiased);
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t{workspace_bytes});
  set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, CUBLASLT_REDUCTION_SCHEME_NONE);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_bytes(weight.data));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_bytes(x.data));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_bytes(out.data));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_bytes(out.data));
  return preference;
}

int library_version(int (*read)(libraryPropertyType)) {
  return read(MAJOR_VERSION) * 10000 + read(MINOR_VERSION) * 100 + read(PATCH_LEVEL);
}

int cublas_property(libraryPropertyType property) {
  int value = 0;
  check_cuda(cublasGetProperty(property, &value), "read cuBLAS version");
  return value;
}

int cusolver_property(libraryPropertyType property) {
  int value = 0;
  check_cuda(cusolverGetProperty(property, &value), "read cuSOLVER version");
  return value;
}

}  // namespace

void multiply(CudaContext& context, const ProductShape& shape, ConstTensorView a, ConstTensorView b,
              TensorView c) {
  const int rows = blas_extent(shape.rows);
  const int columns = blas_extent(shape.columns);
  const int depth = blas_extent(shape.depth);
  const float one = 1.0F;
  const float before = shape.accumulate ? 1.0F : 0.0F;
  const cublasStatus_t status =
      cublasGemmEx(context.cublas, shape.transposed_b ? CUBLAS_OP_T : CUBLAS_OP_N, CUBLAS_OP_N,
                   columns, rows, depth, &one, b.data, cuda_type(b.dtype),
                   shape.transposed_b ? depth : columns, a.data, cuda_type(a.dtype), depth, &before,
                   c.data, cuda_type(c.dtype), columns, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
  check_cuda(status, "matrix product");
}

void multiply_and_add(CudaContext& context, ConstTensorView x, ConstTensorView weight,
                      ConstTensorView bias, TensorView out) {
  ensure(bias.dtype == out.dtype, "a bias of the result's type");
  cublasLtMatmulDescOpaque_t product = describe_product(bias);
  cublasLtMatrixLayoutOpaque_t a = layout_of(weight);
  cublasLtMatrixLayoutOpaque_t b = layout_of(x);
  cublasLtMatrixLayoutOpaque_t c = layout_of(out);
  const TensorView workspace = context.workspace;
  cublasLtMatmulPreferenceOpaque_t preference = preference_for(x, weight, out, workspace.bytes());
  // A cuBLAS handle is one of cublasLt as well, says its manual; only the stream is not taken over.
  auto* const handle = reinterpret_cast<cublasLtHandle_t>(context.cublas);
  cublasLtMatmulHeuristicResult_t best{};
  int found = 0;
  check_cuda(cublasLtMatmulAlgoGetHeuristic(handle, &product, &a, &b, &c, &c, &preference, 1, &best,
                                            &found),
             kBiased);
  ensure(found == 1, "a shape for which cublasLt has an algorithm");
  const float one = 1.0F;
  const float zero = 0.0F;
  check_cuda(
      cublasLtMatmul(handle, &product, &one, weight.data, &a, x.data, &b, &zero, out.data, &c,
                     out.data, &c, &best.algo, workspace.data, workspace.bytes(), context.stream),
      kBiased);
}

std::string cuda_library_names() {
  const int blas = library_version(cublas_property);
  const int solver = library_version(cusolver_property);
  return fmt::format("cuBLAS {}.{}.{}, cuSOLVER {}.{}.{}", blas / 10000, blas / 100 % 100,
                     blas % 100, solver / 10000, solver / 100 % 100, solver % 100);
}

}  // namespace quern
