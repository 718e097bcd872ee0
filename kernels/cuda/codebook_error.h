#pragma once

#include <optional>

#include "kernels/cuda/context.h"

namespace quern::gpu {

/// CodebookSolver::fill_uninformed_rows. Synchronises.
CodebookSolver::UninformedRows fill_uninformed_fisher(CudaContext& context, TensorView fisher,
                                                      std::optional<ConstTensorView> column_energy);

/// CodebookSolver::dequantize, asynchronous.
void dequantize_codebook(CudaContext& context, const CodebookTensor& quantized, TensorView out);

/// A module as floats, what stands for it and what its entries are worth.
struct CodebookErrors {
  const float* weight;
  const float* quantized;
  const float* fisher;
  std::int64_t elems;
};

/// CodebookSolver::weighted_error and count_gains, asynchronous; sums have one fixed order.
void sum_weighted_error(CudaContext& context, const CodebookErrors& input, double* result);
void count_error_gains(CudaContext& context, const CodebookErrors& input, TensorView counts,
                       TensorView sums);

}  // namespace quern::gpu
