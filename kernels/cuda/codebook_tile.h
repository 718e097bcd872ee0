#pragma once

#include "kernels/cuda/codebook_normal.h"

namespace quern::gpu {

/// What is left of the rows of a panel before a round, to go back to.
struct RefineBackup {
  const double* errors;    ///< [rows, K]
  const double* gradient;  ///< [rows, K]
  const double* forms;     ///< [rows] e H e
  StateView state;         ///< of the whole module
};

/// Steps of one round of LNQ on the rows of a panel, all asynchronous. The state is changed in
/// place.

/// errors = weight - value.
void form_errors(CudaContext& context, const RefineRows& rows);
/// gradient = errors H.
void multiply_errors(CudaContext& context, const RefineRows& rows);
/// forms [rows] = e H e.
void form_quadratics(CudaContext& context, const RefineRows& rows, double* forms);

/// table = table + pull, rounded and ascending; codes follow, outliers that the new table cannot
/// express become ordinary weights, and errors are formed anew.
void move_tables(CudaContext& context, const RefineRows& rows, const double* pull);

/// Rows that their new table made worse go back.
void restore_worse(CudaContext& context, const RefineRows& rows, const RefineBackup& backup);

/// One pass of coordinate descent over all columns. changes [rows, 128] is working space.
void sweep_columns(CudaContext& context, const RefineRows& rows, double* changes);

/// Rows that are not better than before go back; the others' outliers get the code nearest to 0.
/// errors [N] of these rows = the lesser e H e; better becomes 1 if a row got better.
void finish_round(CudaContext& context, const RefineRows& rows, const RefineBackup& backup,
                  double* errors, std::int32_t* better);

/// gains [N, K] of these rows: row_scale [N] times what e H e grows by if a weight is not exact but
/// all others stay, at least 0. Outliers get the best code.
void find_gains(CudaContext& context, const RefineRows& rows, const double* row_scale,
                float* gains);

}  // namespace quern::gpu
