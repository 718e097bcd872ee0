#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/context.h"
#include "kernels/solver_setup.h"

namespace quern::gpu {

/// What is rounded, in which order, and what an error costs. Pointers are the device's.
struct RowProblem {
  ConstTensorView weight;               ///< [N, K] plain float
  const std::int32_t* order = nullptr;  ///< [K] column rounded at each step
  std::vector<ColumnGroup> groups;      ///< covering all steps
  const double* feedback = nullptr;     ///< S [K, K], or none: plain rounding
  const double* importance = nullptr;   ///< [K] by step, or none: ones
  GridSpec grid;
  RowRange rows;  ///< that are solved; begins at a multiple of Solver::row_slice
};

/// GPTQ, or plain rounding, of the rows in range, in float64; the others' results are 0.
/// Synchronises once, at the end. Throws InputError where a group's weights do not fit the float16
/// range of scales.
QuantizedTensor round_rows(CudaContext& context, const RowProblem& problem);

}  // namespace quern::gpu
