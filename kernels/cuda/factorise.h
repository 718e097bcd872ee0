#pragma once

#include <span>
#include <vector>

#include "kernels/cuda/cholesky.h"
#include "kernels/cuda/context.h"

namespace quern::gpu {

/// Solver::factorise in float64; the diagonals, their means and the orders are taken on the host
/// exactly as by the CPU backend.
std::vector<HessianFactor> factorise_grams(CudaContext& context, Cholesky& cholesky,
                                           std::span<const HessianTask> tasks);

}  // namespace quern::gpu
