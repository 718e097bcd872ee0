#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/context.h"
#include "kernels/solver_setup.h"

namespace quern::gpu {

/// What is rounded, in which order, and what an error costs. Pointers are the device's but for
/// `steps`.
struct RowProblem {
  std::span<const GridModule> modules;  ///< of one input
  std::span<const std::int32_t> steps;  ///< column rounded at each step
  const std::int32_t* order = nullptr;  ///< the same
  ActOrder act_order = ActOrder::none;
  const double* feedback = nullptr;    ///< S [K, K], or none: plain rounding
  const double* importance = nullptr;  ///< [K] by step, or none: ones
};

/// GPTQ, or plain rounding, of the modules' rows in range, in float64, side by side; the others'
/// results are 0. Synchronises once, at the end. Throws InputError where a group's weights do not
/// fit the float16 range of scales.
std::vector<QuantizedTensor> round_rows(CudaContext& context, const RowProblem& problem);

}  // namespace quern::gpu
