#include "kernels/cuda/products.h"

#include "kernels/cuda/errors.h"
#include "kernels/cuda/lt_product.h"

namespace quern::gpu {

// cuBLAS counts down columns: it sees every operand transposed and forms c^T = b^T a^T.

namespace {

/// c = factor a op(b) + before c.
void add_product_f64(CudaContext& context, const Extents& extents, double factor, ConstMatrixF64 a,
                     cublasOperation_t operation_b, ConstMatrixF64 b, double before, MatrixF64 c) {
  check_cuda(
      cublasDgemm(context.cublas, operation_b, CUBLAS_OP_N, static_cast<int>(extents.columns),
                  static_cast<int>(extents.rows), static_cast<int>(extents.depth), &factor, b.data,
                  static_cast<int>(b.stride), a.data, static_cast<int>(a.stride), &before, c.data,
                  static_cast<int>(c.stride)),
      "matrix product in float64");
}

/// Products of `chunk` rows of a each, all with b. Floats hold TF32 values.
template <typename T>
void multiply_lt_chunks(CudaContext& context, const Extents& extents, std::int64_t chunk,
                        cudaDataType_t type, MatrixPart<const T> a, MatrixPart<const T> b,
                        MatrixPart<T> c) {
  if (extents.rows == 0 || extents.columns == 0) return;
  const auto chunks_of = [&](std::int64_t elems, std::int64_t stride) {
    return LtMatrix{type, elems, chunk, stride, chunk * stride};
  };
  multiply_lt(context,
              {.a = b.data,
               .a_layout = {type, extents.columns, extents.depth, b.stride},
               .b = a.data,
               .b_layout = chunks_of(extents.depth, a.stride),
               .c = c.data,
               .c_layout = chunks_of(extents.columns, c.stride),
               .accumulate = extents.accumulate,
               .tf32 = true,
               .count = extents.rows / chunk},
              "matrix product in chunks of rows");
}

}  // namespace

void multiply_f64(CudaContext& context, const Extents& extents, ConstMatrixF64 a, ConstMatrixF64 b,
                  MatrixF64 c) {
  if (extents.rows == 0 || extents.columns == 0) return;
  add_product_f64(context, extents, 1.0, a, CUBLAS_OP_N, b, extents.accumulate ? 1.0 : 0.0, c);
}

void multiply_chunks_f64(CudaContext& context, const Extents& extents, std::int64_t chunk,
                         ConstMatrixF64 a, ConstMatrixF64 b, MatrixF64 c) {
  multiply_lt_chunks(context, extents, chunk, CUDA_R_64F, a, b, c);
}

void multiply_chunks_tf32(CudaContext& context, const Extents& extents, std::int64_t chunk,
                          MatrixPart<const float> a, MatrixPart<const float> b,
                          MatrixPart<float> c) {
  multiply_lt_chunks(context, extents, chunk, CUDA_R_32F, a, b, c);
}

void subtract_transposed_f64(CudaContext& context, const Extents& extents, ConstMatrixF64 a,
                             ConstMatrixF64 b, MatrixF64 c) {
  add_product_f64(context, extents, -1.0, a, CUBLAS_OP_T, b, 1.0, c);
}

void multiply_batch_f64(CudaContext& context, const Extents& extents, std::int64_t count,
                        const double* a, const double* b, double* c) {
  if (count == 0) return;
  const double one = 1.0;
  const double before = extents.accumulate ? 1.0 : 0.0;
  const auto rows = static_cast<int>(extents.rows);
  const auto columns = static_cast<int>(extents.columns);
  const auto depth = static_cast<int>(extents.depth);
  check_cuda(cublasDgemmStridedBatched(context.cublas, CUBLAS_OP_T, CUBLAS_OP_N, columns, rows,
                                       depth, &one, b, depth, extents.columns * extents.depth, a,
                                       depth, extents.rows * extents.depth, &before, c, columns,
                                       extents.rows * extents.columns, static_cast<int>(count)),
             "batched matrix product in float64");
}

}  // namespace quern::gpu
