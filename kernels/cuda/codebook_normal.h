#pragma once

#include "kernels/cuda/codebook_table.h"

namespace quern::gpu {

/// Rows [first, first + rows) of a module in a refinement; matrices [rows, K] f64.
struct RefineRows {
  std::int64_t first;
  std::int64_t rows;
  const float* weights;  ///< [N, K]
  bool exactly;
  const double* h;   ///< [K, K] symmetric
  double* errors;    ///< e = weight - value, 0 at outliers
  double* gradient;  ///< e H
  StateView state;   ///< of the whole module
};

/// pull [rows, count] = A^-1 P^T H e of each row, A = P^T H P with the one-hot codes P of a row,
/// outliers having none: what to add to the table for the least e H e. Centroids that no error
/// depends on get 0. Asynchronous.
void find_pull(CudaContext& context, const RefineRows& rows, double* pull);

}  // namespace quern::gpu
