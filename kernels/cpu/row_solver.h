#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cpu/scratch.h"
#include "kernels/solver_setup.h"

namespace quern {

/// What is rounded, in which order, and what an error costs.
struct RowProblem {
  const GridModule& module;
  std::span<const std::int32_t> order;  ///< column rounded at each step
  std::vector<ColumnGroup> groups;      ///< covering all steps
  const double* feedback = nullptr;     ///< S [K, K], or none: plain rounding
  const double* importance = nullptr;   ///< [K] by step, or none: ones
};

/// GPTQ, or plain rounding, of the rows in range; the others' results are 0. Throws InputError
/// where a group's weights do not fit the float16 range of scales.
QuantizedTensor round_rows(Memory& memory, Scratch& scratch, const RowProblem& problem,
                           int threads);

}  // namespace quern
