#pragma once

#include <memory>

#include "kernels/codebook_solver.h"
#include "kernels/memory.h"

namespace quern {

/// Codebooks in float64 on host memory, done when a call returns; `memory` outlives the solver.
/// Work is cut by shapes, so that `threads` shows in no bit.
std::unique_ptr<CodebookSolver> make_cpu_codebook_solver(Memory& memory, int threads);

}  // namespace quern
