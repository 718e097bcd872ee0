#pragma once

#include <optional>

#include "kernels/cuda/codebook_table.h"

namespace quern::gpu {

/// The weights of a module and what they are worth.
struct ClusterInput {
  ConstTensorView weight;  ///< [N, K] plain float
  ConstTensorView fisher;  ///< [N, K] f32
  CodebookSpec spec;
};

/// CodebookSolver::cluster; synchronises to know the outliers. Throws InputError if a weight is
/// not finite.
CodebookTensor cluster_rows(CudaContext& context, const ClusterInput& input,
                            std::optional<ConstTensorView> mask);

/// CodebookSolver::cluster_jointly; synchronises once in a round.
CodebookTensor cluster_rows_jointly(CudaContext& context, const ClusterInput& input,
                                    TensorView mask, std::int64_t outliers);

}  // namespace quern::gpu
