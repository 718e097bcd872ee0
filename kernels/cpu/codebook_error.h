#pragma once

#include <optional>

#include "kernels/codebook_solver.h"

namespace quern {

/// The measures of a codebook and of F, as in CodebookSolver, on the host.
CodebookSolver::UninformedRows fill_uninformed_fisher(TensorView fisher,
                                                      std::optional<ConstTensorView> column_energy);
void dequantize_codebook(const CodebookTensor& quantized, TensorView out, int threads);

/// A module, what stands for it and what its entries are worth.
struct CodebookErrors {
  ConstTensorView weight;     ///< [N, K] plain float
  ConstTensorView quantized;  ///< [N, K] f32
  ConstTensorView fisher;     ///< [N, K] f32
  int threads;
};
void sum_weighted_error(const CodebookErrors& input, double* result);
void count_error_gains(const CodebookErrors& input, TensorView counts, TensorView sums);

}  // namespace quern
