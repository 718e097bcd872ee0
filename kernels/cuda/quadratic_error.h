#pragma once

#include "kernels/cuda/context.h"

namespace quern::gpu {

/// The operands of Solver::quadratic_error.
struct QuadraticErrorInput {
  ConstTensorView weight;     ///< [N, K] plain float
  ConstTensorView quantized;  ///< [N, K] f32
  GramView gram;
};

/// Solver::quadratic_error in float64; asynchronous. result [2]: of weight - quantized, of weight.
void quadratic_error_of_rows(CudaContext& context, const QuadraticErrorInput& input,
                             double* result);

}  // namespace quern::gpu
