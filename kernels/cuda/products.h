#pragma once

#include "kernels/cuda/context.h"

namespace quern::gpu {

/// A row-major matrix of doubles inside another; stride: elements from one row to the next.
struct ConstMatrixF64 {
  const double* data = nullptr;
  std::int64_t stride = 0;
};
struct MatrixF64 {
  double* data = nullptr;
  std::int64_t stride = 0;
};

struct ExtentsF64 {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t depth = 0;
  bool accumulate = false;  ///< adds to c instead of overwriting it
};

/// c [rows, columns] = a [rows, depth] b [depth, columns], or c + a b, in float64. Asynchronous.
void multiply_f64(CudaContext& context, const ExtentsF64& extents, ConstMatrixF64 a,
                  ConstMatrixF64 b, MatrixF64 c);

/// `count` products c_n [rows, columns] = a_n [rows, depth] b_n^T of packed b_n [columns, depth];
/// all operands follow one another. Asynchronous.
void multiply_batch_f64(CudaContext& context, const ExtentsF64& extents, std::int64_t count,
                        const double* a, const double* b, double* c);

}  // namespace quern::gpu
