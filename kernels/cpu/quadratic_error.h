#pragma once

#include "kernels/memory.h"
#include "kernels/statistics_ops.h"

namespace quern {

struct QuadraticErrorInput {
  ConstTensorView weight;     ///< [N, K] plain float
  ConstTensorView quantized;  ///< [N, K] f32
  GramView gram;
  int threads;
};

/// Solver::quadratic_error on the host; result [N, 2]: of weight - quantized, of weight.
void quadratic_error_of_rows(Memory& memory, const QuadraticErrorInput& input, double* result);

}  // namespace quern
