#pragma once

#include <memory>
#include <string>

#include "kernels/codebook_solver.h"
#include "kernels/gradient_ops.h"
#include "kernels/layer_ops.h"
#include "kernels/memory.h"
#include "kernels/solver.h"
#include "kernels/statistics_ops.h"

namespace quern {

/// One device: its memory and stream, and the operations on it, grouped by who calls them. Nothing
/// above kernels/ may assume that a view can be dereferenced by the host.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual Memory& memory() noexcept = 0;
  virtual LayerOps& layers() noexcept = 0;
  virtual GradientOps& gradients() noexcept = 0;
  virtual StatisticsOps& statistics() noexcept = 0;
  virtual Solver& solver() noexcept = 0;
  virtual CodebookSolver& codebooks() noexcept = 0;

  /// Type of activations and of weights prepared for linear().
  virtual DType activation_dtype() const noexcept = 0;

  /// What decides the numbers: "cpu (OpenBLAS 0.3.21 SkylakeX)". Part of a run's identity.
  virtual std::string numerics() const = 0;
};

/// The host's processors: OpenMP over rows and tiles, a single-threaded BLAS inside.
/// threads: at least 1. The results depend neither on it nor on the limit of its memory.
/// activation: f32 or f64, in which everything else than the solvers is computed as well.
std::unique_ptr<Backend> make_cpu_backend(int threads,
                                          std::size_t memory_limit_bytes = Memory::unlimited,
                                          DType activation = DType::f32);

}  // namespace quern
