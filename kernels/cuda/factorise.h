#pragma once

#include <cstdint>

#include "kernels/cuda/cholesky.h"
#include "kernels/cuda/context.h"

namespace quern::gpu {

/// Solver::factorise in float64; the diagonal, its mean and the order are taken on the host exactly
/// as by the CPU backend.
HessianFactor factorise_gram(CudaContext& context, Cholesky& cholesky, const GramView& gram,
                             ActOrder order, std::int64_t group_size, const Damping& damping);

}  // namespace quern::gpu
