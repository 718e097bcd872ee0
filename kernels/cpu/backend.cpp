#include "kernels/backend.h"

#include <fmt/format.h>

#include "kernels/core/error.h"
#include "kernels/cpu/blas.h"
#include "kernels/cpu/codebook_solver.h"
#include "kernels/cpu/gradient_ops.h"
#include "kernels/cpu/layer_ops.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/solver.h"
#include "kernels/cpu/statistics_ops.h"

namespace quern {
namespace {

class CpuBackend final : public Backend {
 public:
  CpuBackend(int threads, std::size_t memory_limit_bytes, DType activation)
      : activation_(activation),
        memory_(memory_limit_bytes),
        layers_(memory_, threads),
        gradients_(memory_, threads),
        statistics_(memory_, threads),
        solver_(make_cpu_solver(memory_, threads)),
        codebooks_(make_cpu_codebook_solver(memory_, threads)) {}

  Memory& memory() noexcept override { return memory_; }
  LayerOps& layers() noexcept override { return layers_; }
  GradientOps& gradients() noexcept override { return gradients_; }
  StatisticsOps& statistics() noexcept override { return statistics_; }
  Solver& solver() noexcept override { return *solver_; }
  CodebookSolver& codebooks() noexcept override { return *codebooks_; }
  DType activation_dtype() const noexcept override { return activation_; }
  std::string numerics() const override {
    const char* type = activation_ == DType::f64 ? ", F64" : "";
    return fmt::format("cpu ({}{})", blas_name(), type);
  }

 private:
  DType activation_;
  CpuMemory memory_;
  CpuLayerOps layers_;
  CpuGradientOps gradients_;
  CpuStatisticsOps statistics_;
  std::unique_ptr<Solver> solver_;
  std::unique_ptr<CodebookSolver> codebooks_;
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(int threads, std::size_t memory_limit_bytes,
                                          DType activation) {
  ensure(threads >= 1, "at least one thread");
  ensure(activation == DType::f32 || activation == DType::f64, "activations of F32 or F64");
  use_calling_thread_for_blas();
  return std::make_unique<CpuBackend>(threads, memory_limit_bytes, activation);
}

}  // namespace quern
