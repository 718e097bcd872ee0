#pragma once

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include <memory>

#include "kernels/codebook_solver.h"
#include "kernels/gradient_ops.h"
#include "kernels/layer_ops.h"
#include "kernels/memory.h"
#include "kernels/solver.h"
#include "kernels/statistics_ops.h"

namespace quern {

/// What the operations of one CUDA backend share; owned by the backend, which outlives them. cuBLAS
/// works on `stream` and has a fixed workspace, so that a product's bits depend on its shape and
/// operands only. Operations are issued by one thread at a time, which has `device` as its current
/// one: the thread that made the backend has, another calls use_device first.
struct CudaContext {
  int device = 0;
  cudaStream_t stream = nullptr;
  cublasHandle_t cublas = nullptr;
  TensorView workspace;  ///< that of `cublas`, for products on `stream`
  Memory& memory;  ///< ordered by `stream`: a tensor may be dropped before its last kernel ran
  DType activation = DType::bf16;  ///< bf16, f16, f32 or f64
  int multiprocessors = 0;
};

std::unique_ptr<LayerOps> make_cuda_layer_ops(CudaContext& context);
std::unique_ptr<GradientOps> make_cuda_gradient_ops(CudaContext& context);
std::unique_ptr<StatisticsOps> make_cuda_statistics_ops(CudaContext& context);
std::unique_ptr<Solver> make_cuda_solver(CudaContext& context);
std::unique_ptr<CodebookSolver> make_cuda_codebook_solver(CudaContext& context);

}  // namespace quern
