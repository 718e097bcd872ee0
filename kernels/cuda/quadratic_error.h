#pragma once

#include "kernels/cuda/context.h"

namespace quern::gpu {

/// The operands of Solver::quadratic_error.
struct QuadraticErrorInput {
  ConstTensorView weight;     ///< [N, K] plain float
  ConstTensorView quantized;  ///< [N, K] f32
  GramView gram;
};

/// Solver::quadratic_error on the tensor cores: H, weights and differences are rounded to TF32,
/// their products are summed in float32. So each result is off by at most 2^-9 |x| |H| |x|^T, and
/// the sum of many rows by far less, whose errors cancel. Asynchronous. result [N, 2]: of
/// weight - quantized, of weight.
void quadratic_error_of_rows(CudaContext& context, const QuadraticErrorInput& input,
                             double* result);

}  // namespace quern::gpu
