#pragma once

#include <cstdint>
#include <string>

namespace quern {

/// A row-major matrix operand, T float or double: `stride` elements from one stored row to the
/// next; with `transposed` the product uses its transpose.
template <typename T>
struct BlasOperand {
  const T* data;
  std::int64_t stride;
  bool transposed = false;
};

/// c [rows, columns] = alpha * a [rows, depth] * b [depth, columns], or that added to c.
struct BlasExtents {
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t depth;
  float alpha = 1.0F;
  bool accumulate = false;
};

/// One product on the calling thread; may be called by many threads at once. The bits depend on
/// extents, operands and the BLAS core only. Without extents.accumulate c is overwritten, whatever
/// it held.
void multiply(const BlasExtents& extents, const BlasOperand<float>& a, const BlasOperand<float>& b,
              float* c, std::int64_t c_stride);
void multiply(const BlasExtents& extents, const BlasOperand<double>& a,
              const BlasOperand<double>& b, double* c, std::int64_t c_stride);

/// Makes every BLAS call of this process run on its calling thread.
void use_calling_thread_for_blas();

/// "OpenBLAS 0.3.21 SkylakeX": the library and the core it chose for this processor.
std::string blas_name();

}  // namespace quern
