#pragma once

#include <cstdint>

#include "kernels/cuda/context.h"

namespace quern {

/// A matrix as cublasLt sees it: its elements count down columns, `leading` from one to the next.
struct LtMatrix {
  cudaDataType_t type = CUDA_R_32F;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t leading = 0;
  std::int64_t stride = 0;  ///< elements from one matrix of a batch to the next; 0: one for all
};

/// c = op(a) b, or c + op(a) b; plus a value for each row of c where there is a bias. Sums in
/// float64 if c is of that type, in float32 otherwise.
struct LtProduct {
  const void* a = nullptr;
  LtMatrix a_layout;
  bool transposed_a = false;
  const void* b = nullptr;
  LtMatrix b_layout;
  void* c = nullptr;
  LtMatrix c_layout;
  bool accumulate = false;
  bool tf32 = false;           ///< floats may be rounded to TF32, for the tensor cores
  const void* bias = nullptr;  ///< [rows of c], of c's type
  std::int64_t count = 1;      ///< products in the batch
};

/// One launch for the whole batch. The algorithm, and so the bits, depends on the layouts and on
/// how the operands are aligned up to 16 bytes, not on where they lie nor on how many products
/// there are; every dot product is formed in one sequence. Asynchronous.
void multiply_lt(CudaContext& context, const LtProduct& product, const char* what);

}  // namespace quern
