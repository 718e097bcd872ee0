#pragma once

#include <string>

#include "kernels/cuda/context.h"
#include "kernels/cuda/handles.h"

namespace quern {

/// A handle that works on `stream` in `workspace`, and forms equal products in equal ways.
UniqueCublas make_cublas(cudaStream_t stream, TensorView workspace);

cudaDataType_t cuda_type(DType dtype);

/// How cuBLAS sums products of matrices of a type, and where it reads factors in that precision.
struct BlasSums {
  cublasComputeType_t type;
  const void* zero;
  const void* one;
};

/// float64 for f64, otherwise float32, never TF32.
BlasSums blas_sums(DType operands);

/// a [rows, depth] times b [depth, columns], all row major; `transposed_b`: b is stored as
/// [columns, depth].
struct ProductShape {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t depth = 0;
  bool transposed_b = false;
  bool accumulate = false;  ///< adds to c instead of overwriting it
};

/// c = a b, or c + a b. a and b are of one plain float type; c is of that type or, unless they are
/// f64, f32. Sums as blas_sums says; one rounding to c's type. Asynchronous.
void multiply(CudaContext& context, const ProductShape& shape, ConstTensorView a, ConstTensorView b,
              TensorView c);

/// out = x weight^T + bias, added in float32 before the one rounding to out's type. x [M, K] and
/// weight [N, K] of one type, bf16, f16 or f32; out [M, N] of that type or f32; bias [N] of out's
/// type. Never TF32. Asynchronous.
void multiply_and_add(CudaContext& context, ConstTensorView x, ConstTensorView weight,
                      ConstTensorView bias, TensorView out);

/// "cuBLAS 13.1.0": the library loaded, with its patch level.
std::string cublas_name();

}  // namespace quern
