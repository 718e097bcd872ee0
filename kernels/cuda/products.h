#pragma once

#include "kernels/cuda/context.h"

namespace quern::gpu {

/// A row-major matrix inside another; stride: elements from one row to the next.
template <typename T>
struct MatrixPart {
  T* data = nullptr;
  std::int64_t stride = 0;
};
using ConstMatrixF64 = MatrixPart<const double>;
using MatrixF64 = MatrixPart<double>;

struct Extents {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t depth = 0;
  bool accumulate = false;  ///< adds to c instead of overwriting it
};

/// c [rows, columns] = a [rows, depth] b [depth, columns], or c + a b, in float64. Asynchronous.
void multiply_f64(CudaContext& context, const Extents& extents, ConstMatrixF64 a, ConstMatrixF64 b,
                  MatrixF64 c);

/// The same, in one launch, by products of `chunk` rows each, whose number divides that of all
/// rows: how a product rounds may depend on its extents, and so these do not depend on how many
/// rows there are.
void multiply_chunks_f64(CudaContext& context, const Extents& extents, std::int64_t chunk,
                         ConstMatrixF64 a, ConstMatrixF64 b, MatrixF64 c);

/// The same of float32 operands that hold TF32 values, on the tensor cores, summed in float32.
void multiply_chunks_tf32(CudaContext& context, const Extents& extents, std::int64_t chunk,
                          MatrixPart<const float> a, MatrixPart<const float> b,
                          MatrixPart<float> c);

/// c [rows, columns] -= a [rows, depth] b^T of b [columns, depth], in float64. Asynchronous.
void subtract_transposed_f64(CudaContext& context, const Extents& extents, ConstMatrixF64 a,
                             ConstMatrixF64 b, MatrixF64 c);

/// `count` products c_n [rows, columns] = a_n [rows, depth] b_n^T of packed b_n [columns, depth];
/// all operands follow one another. Asynchronous.
void multiply_batch_f64(CudaContext& context, const Extents& extents, std::int64_t count,
                        const double* a, const double* b, double* c);

}  // namespace quern::gpu
