#pragma once

#include "kernels/cuda/context.h"

namespace quern::gpu {

struct RefineInput {
  ConstTensorView weight;  ///< [N, K] plain float
  ConstTensorView fisher;  ///< [N, K] f32
  GramView gram;
  CodebookSpec spec;
  RefineOptions options;
};

/// CodebookSolver::refine in float64; synchronises once in a round. Throws InternalError if
/// gram.overflow is not 0.
CodebookTensor refine_codebook(CudaContext& context, const RefineInput& input,
                               const CodebookTensor& start);

}  // namespace quern::gpu
