#pragma once

#include "kernels/cuda/context.h"
#include "kernels/cuda/handles.h"

namespace quern::gpu {

/// Cholesky factors in float64. A panel of columns is factorised while what the one before it means
/// for the rest of the matrix is still being worked out on the context's stream. All extents follow
/// from the size of the matrix: equal matrices have equal factors, bit for bit.
class Cholesky {
 public:
  /// context: outlives this object.
  explicit Cholesky(CudaContext& context);
  ~Cholesky();

  /// matrix [n, n] f64, of which the lower triangle (row >= column) of a symmetric A is read. That
  /// becomes L with A = L L^T; what is above it afterwards has no meaning. If A is not positive
  /// definite some L_jj is not a number > 0. Asynchronous.
  void factor(TensorView matrix);

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
