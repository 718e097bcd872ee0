#pragma once

#include "kernels/codebook_solver.h"
#include "kernels/memory.h"

namespace quern {

struct RefineInput {
  ConstTensorView weight;  ///< [N, K] plain float
  ConstTensorView fisher;  ///< [N, K] f32
  GramView gram;
  CodebookSpec spec;
  RefineOptions options;
  int threads;
};

/// CodebookSolver::refine on the host, in float64. Throws InternalError if gram.overflow is not 0.
CodebookTensor refine_codebook(Memory& memory, const RefineInput& input,
                               const CodebookTensor& start);

}  // namespace quern
