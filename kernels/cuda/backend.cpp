#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <string>

#include "kernels/core/error.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/context.h"
#include "kernels/cuda/devices.h"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/handles.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda_backend.h"

namespace quern {
namespace {

// What cuBLAS itself takes on Hopper; its size is part of what decides the bits of a product.
constexpr std::int64_t kWorkspaceBytes = 32 << 20;

void expect_activation_type(DType dtype) {
  if (is_plain_float(dtype)) return;
  throw ConfigError(
      fmt::format("device: activations of type {} are not supported by CUDA; expected "
                  "BF16, F16, F32 or F64",
                  dtype_name(dtype)));
}

std::string describe_numerics(const cudaDeviceProp& device, DType activation) {
  int runtime = 0;
  check_cuda(cudaRuntimeGetVersion(&runtime), "read CUDA version");
  return fmt::format("cuda ({} {}.{}, CUDA {}.{}, {}, {})", device.name, device.major, device.minor,
                     runtime / 1000, runtime % 1000 / 10, cublas_name(), dtype_name(activation));
}

class CudaBackend final : public Backend {
 public:
  CudaBackend(const CudaOptions& options, const cudaDeviceProp& device)
      : memory_(options.device,
                cuda_memory_limit(options.device, options.memory_limit_bytes, options.sharers)),
        workspace_(memory_.allocate(DType::u8, {kWorkspaceBytes})),
        cublas_(make_cublas(memory_.stream(), workspace_.view())),
        context_{.device = options.device,
                 .stream = memory_.stream(),
                 .cublas = cublas_.get(),
                 .workspace = workspace_.view(),
                 .memory = memory_,
                 .activation = options.activation_dtype,
                 .multiprocessors = device.multiProcessorCount},
        numerics_(describe_numerics(device, options.activation_dtype)),
        layers_(make_cuda_layer_ops(context_)),
        gradients_(make_cuda_gradient_ops(context_)),
        statistics_(make_cuda_statistics_ops(context_)),
        solver_(make_cuda_solver(context_)),
        codebooks_(make_cuda_codebook_solver(context_)) {}

  Memory& memory() noexcept override { return memory_; }
  LayerOps& layers() noexcept override { return *layers_; }
  GradientOps& gradients() noexcept override { return *gradients_; }
  StatisticsOps& statistics() noexcept override { return *statistics_; }
  Solver& solver() noexcept override { return *solver_; }
  CodebookSolver& codebooks() noexcept override { return *codebooks_; }
  DType activation_dtype() const noexcept override { return context_.activation; }
  std::string numerics() const override { return numerics_; }

 private:
  CudaMemory memory_;
  Tensor workspace_;
  UniqueCublas cublas_;
  CudaContext context_;
  std::string numerics_;
  std::unique_ptr<LayerOps> layers_;
  std::unique_ptr<GradientOps> gradients_;
  std::unique_ptr<StatisticsOps> statistics_;
  std::unique_ptr<Solver> solver_;
  std::unique_ptr<CodebookSolver> codebooks_;
};

}  // namespace

std::unique_ptr<Backend> make_cuda_backend(const CudaOptions& options) {
  expect_activation_type(options.activation_dtype);
  const cudaDeviceProp device = usable_device(options.device);
  use_device(options.device);
  return std::make_unique<CudaBackend>(options, device);
}

}  // namespace quern
