#pragma once

#include <memory>

#include "kernels/memory.h"
#include "kernels/solver.h"

namespace quern {

/// The solver that defines right: everything in float64 (the scale search alone compares its
/// candidates in float32), done when a call returns. All tensors lie in `memory`, which is host
/// memory and outlives the solver. Work is cut into fixed tiles, so that `threads` shows in no bit.
std::unique_ptr<Solver> make_cpu_solver(Memory& memory, int threads);

}  // namespace quern
