#pragma once

#include <optional>
#include <utility>

#include "kernels/solver.h"

namespace quern::test {

/// Solver::gptq of one module.
inline QuantizedTensor gptq(Solver& solver, ConstTensorView weight, const HessianFactor& factor,
                            const GridSpec& grid, const RowRange& rows = {}) {
  const GridModule module{"m", weight, grid, rows};
  return std::move(solver.gptq({&module, 1}, factor).front());
}

/// Solver::round_to_nearest of one module.
inline QuantizedTensor round_to_nearest(Solver& solver, ConstTensorView weight,
                                        const GridSpec& grid,
                                        std::optional<ConstTensorView> column_weight) {
  const GridModule module{"m", weight, grid};
  return std::move(solver.round_to_nearest({&module, 1}, column_weight).front());
}

}  // namespace quern::test
