#pragma once

#include <cstdint>
#include <optional>

#include "kernels/codebook_solver.h"
#include "kernels/memory.h"

namespace quern {

/// The weights of a module and what they are worth.
struct ClusterInput {
  ConstTensorView weight;  ///< [N, K] plain float
  ConstTensorView fisher;  ///< [N, K] f32
  CodebookSpec spec;
  int threads;
};

/// CodebookSolver::cluster on the host. Throws InputError if a weight is not finite.
CodebookTensor cluster_rows(Memory& memory, const ClusterInput& input,
                            std::optional<ConstTensorView> mask);

/// CodebookSolver::cluster_jointly on the host.
CodebookTensor cluster_rows_jointly(Memory& memory, const ClusterInput& input, TensorView mask,
                                    std::int64_t outliers);

}  // namespace quern
