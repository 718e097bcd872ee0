#pragma once

#include <cstdint>

#include "kernels/memory.h"
#include "kernels/solver.h"

namespace quern {

/// Solver::factorise on the host.
HessianFactor factorise_gram(Memory& memory, const HessianTask& task, int threads);

/// h [K, K] row major, upper triangle given: overwritten with the upper triangular R of
/// h = R R^T, zeros below. False, with h spoiled, where h is not positive definite to working
/// precision. Fixed tiles: the bits do not depend on `threads`.
bool reversed_cholesky(double* h, std::int64_t columns, int threads);

}  // namespace quern
