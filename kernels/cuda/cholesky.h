#pragma once

#include <span>

#include "kernels/cuda/context.h"
#include "kernels/cuda/handles.h"

namespace quern::gpu {

/// Cholesky factors in float64, of several matrices of one size at a time: their blocks of columns,
/// each a chain of dependent steps, are factorised side by side. A panel of columns is factorised
/// while what the one before it means for the rest of the matrix is still being worked out on the
/// context's stream. All extents follow from the size of the matrix: equal matrices have equal
/// factors, bit for bit, beside whatever others.
class Cholesky {
 public:
  /// context: outlives this object.
  explicit Cholesky(CudaContext& context);
  ~Cholesky();

  /// matrices [n, n] f64 each, of which the lower triangle (row >= column) of a symmetric A is
  /// read. That becomes L with A = L L^T; what is above it afterwards has no meaning. If A is not
  /// positive definite some L_jj is not a number > 0. Asynchronous.
  void factor(std::span<const TensorView> matrices);

 private:
  CudaContext& context_;
  Tensor workspace_;
  UniqueStream stream_;
  UniqueCublas cublas_;
  CudaContext ahead_;  ///< the same device, on stream_
  UniqueEvent panel_done_;
  UniqueEvent rest_done_;
};

}  // namespace quern::gpu
