#include <algorithm>

#include "kernels/cuda/codebook_table.cuh"
#include "kernels/cuda/codebook_tile.h"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/products.h"

namespace quern::gpu {
namespace {

using namespace numeric;
using namespace codebook;

constexpr int kThreads = 256;

__device__ double error_of(const RefineRows& rows, std::int64_t element, float value) {
  const bool exact = rows.state.mask[element] != 0;
  return exact ? 0.0 : static_cast<double>(rows.weights[element]) - static_cast<double>(value);
}

/// Bounds halfway between centroids as doubles; infinite where the next value repeats.
__device__ void fill_middles(const float* table, int count, double* bounds) {
  for (int c = static_cast<int>(threadIdx.x); c + 1 < count; c += static_cast<int>(blockDim.x)) {
    const double middle = 0.5 * (static_cast<double>(table[c]) + static_cast<double>(table[c + 1]));
    bounds[c] = table[c] == table[c + 1] ? static_cast<double>(infinity()) : middle;
  }
}

/// One block per row.
__global__ void errors_kernel(RefineRows rows) {
  const std::int64_t columns = rows.state.columns;
  const std::int64_t row = rows.first + blockIdx.x;
  const float* table = rows.state.table + row * rows.state.count;
  for (std::int64_t k = threadIdx.x; k < columns; k += kThreads) {
    const std::int64_t i = row * columns + k;
    rows.errors[std::int64_t{blockIdx.x} * columns + k] =
        error_of(rows, i, table[rows.state.codes[i]]);
  }
}

/// e H e of the block's row; all threads get it.
__device__ double quadratic_form(const RefineRows& rows) {
  const std::int64_t begin = std::int64_t{blockIdx.x} * rows.state.columns;
  double sum = 0.0;
  for (std::int64_t k = threadIdx.x; k < rows.state.columns; k += blockDim.x) {
    sum += rows.errors[begin + k] * rows.gradient[begin + k];
  }
  return block_sum(sum);
}

/// One block per row.
__global__ void forms_kernel(RefineRows rows, double* forms) {
  const double form = quadratic_form(rows);
  if (threadIdx.x == 0) forms[blockIdx.x] = form;
}

/// One block per row.
__global__ void move_tables_kernel(RefineRows rows, const double* pull) {
  __shared__ SharedTable shared;
  __shared__ double bounds[kMaxCount];
  const StateView& state = rows.state;
  const std::int64_t row = rows.first + blockIdx.x;
  const float* w = rows.weights + row * state.columns;
  float* table = state.table + row * state.count;
  const TableFormat format = format_of_row(state, w, row);
  for (int c = static_cast<int>(threadIdx.x); c < state.count; c += kThreads) {
    shared.values[c] =
        static_cast<double>(table[c]) + pull[std::int64_t{blockIdx.x} * state.count + c];
  }
  __syncthreads();
  if (threadIdx.x == 0) finish_table(shared, state.count, format);
  __syncthreads();
  fill_middles(shared.table, state.count, bounds);
  for (int c = static_cast<int>(threadIdx.x); c < state.count; c += kThreads) {
    table[c] = shared.table[c];
  }
  __syncthreads();
  const float centroid = shared.table[nearest_to_zero(shared.table, state.count)];
  for (std::int64_t k = threadIdx.x; k < state.columns; k += kThreads) {
    const std::int64_t i = row * state.columns + k;
    std::uint8_t code = shared.places[state.codes[i]];
    float value = 0.0F;
    if (state.mask[i] != 0 && !outlier_value(w[k], centroid, rows.exactly, value)) {
      state.mask[i] = 0;
      code = static_cast<std::uint8_t>(
          count_below(bounds, state.count - 1, static_cast<double>(w[k])));
    }
    state.codes[i] = code;
    rows.errors[std::int64_t{blockIdx.x} * state.columns + k] =
        error_of(rows, i, shared.table[code]);
  }
}

/// The block's row as it was before the round.
__device__ void restore_row(const RefineRows& rows, const StateView& from) {
  const StateView& state = rows.state;
  const std::int64_t row = rows.first + blockIdx.x;
  for (std::int64_t k = threadIdx.x; k < state.columns; k += blockDim.x) {
    const std::int64_t i = row * state.columns + k;
    state.codes[i] = from.codes[i];
    state.mask[i] = from.mask[i];
  }
  for (int c = static_cast<int>(threadIdx.x); c < state.count; c += static_cast<int>(blockDim.x)) {
    state.table[row * state.count + c] = from.table[row * state.count + c];
  }
}

/// One block per row.
__global__ void restore_kernel(RefineRows rows, RefineBackup backup) {
  if (quadratic_form(rows) <= backup.forms[blockIdx.x]) return;
  restore_row(rows, backup.state);
  const std::int64_t begin = std::int64_t{blockIdx.x} * rows.state.columns;
  for (std::int64_t k = threadIdx.x; k < rows.state.columns; k += kThreads) {
    rows.errors[begin + k] = backup.errors[begin + k];
    rows.gradient[begin + k] = backup.gradient[begin + k];
  }
}

/// One block per row.
__global__ void finish_kernel(RefineRows rows, RefineBackup backup, double* errors,
                              std::int32_t* better) {
  const double before = backup.forms[blockIdx.x];
  const double after = quadratic_form(rows);
  const std::int64_t row = rows.first + blockIdx.x;
  if (threadIdx.x == 0) errors[row] = after < before ? after : before;
  if (!(after < before)) {
    restore_row(rows, backup.state);
    return;
  }
  if (threadIdx.x == 0) atomicMax(better, 1);
  const StateView& state = rows.state;
  const int zero = nearest_to_zero(state.table + row * state.count, state.count);
  for (std::int64_t k = threadIdx.x; k < state.columns; k += kThreads) {
    const std::int64_t i = row * state.columns + k;
    if (state.mask[i] != 0) state.codes[i] = static_cast<std::uint8_t>(zero);
  }
}

/// One block per row.
__global__ void gains_kernel(RefineRows rows, const double* row_scale, float* gains) {
  __shared__ double bounds[kMaxCount];
  const StateView& state = rows.state;
  const std::int64_t row = rows.first + blockIdx.x;
  const float* table = state.table + row * state.count;
  fill_middles(table, state.count, bounds);
  __syncthreads();
  const double scale = row_scale[row];
  for (std::int64_t k = threadIdx.x; k < state.columns; k += kThreads) {
    const std::int64_t i = row * state.columns + k;
    const std::int64_t at = std::int64_t{blockIdx.x} * state.columns + k;
    const double h = rows.h[k * state.columns + k];
    const double g = rows.gradient[at];
    double error = rows.errors[at];
    double gain = 2.0 * error * g - h * error * error;
    if (state.mask[i] != 0 && h > 0.0) {
      const double w = rows.weights[i];
      const int code = count_below(bounds, state.count - 1, w + g / h);
      error = w - static_cast<double>(table[code]);
      state.codes[i] = static_cast<std::uint8_t>(code);
      gain = 2.0 * error * g + h * error * error;
    }
    gains[i] = static_cast<float>(fmin(fmax(gain * scale, 0.0), 1e38));
  }
}

unsigned grid_of(const RefineRows& rows) {
  return block_count(rows.rows, 1);
}

}  // namespace

void form_errors(CudaContext& context, const RefineRows& rows) {
  errors_kernel<<<grid_of(rows), kThreads, 0, context.stream>>>(rows);
  check_launch("refine");
}

void multiply_errors(CudaContext& context, const RefineRows& rows) {
  const std::int64_t columns = rows.state.columns;
  multiply_f64(context, {rows.rows, columns, columns, false}, {rows.errors, columns},
               {rows.h, columns}, {rows.gradient, columns});
}

void form_quadratics(CudaContext& context, const RefineRows& rows, double* forms) {
  forms_kernel<<<grid_of(rows), kThreads, 0, context.stream>>>(rows, forms);
  check_launch("refine");
}

void move_tables(CudaContext& context, const RefineRows& rows, const double* pull) {
  move_tables_kernel<<<grid_of(rows), kThreads, 0, context.stream>>>(rows, pull);
  check_launch("refine");
}

void restore_worse(CudaContext& context, const RefineRows& rows, const RefineBackup& backup) {
  restore_kernel<<<grid_of(rows), kThreads, 0, context.stream>>>(rows, backup);
  check_launch("refine");
}

void finish_round(CudaContext& context, const RefineRows& rows, const RefineBackup& backup,
                  double* errors, std::int32_t* better) {
  finish_kernel<<<grid_of(rows), kThreads, 0, context.stream>>>(rows, backup, errors, better);
  check_launch("refine");
}

void find_gains(CudaContext& context, const RefineRows& rows, const double* row_scale,
                float* gains) {
  gains_kernel<<<grid_of(rows), kThreads, 0, context.stream>>>(rows, row_scale, gains);
  check_launch("refine");
}

}  // namespace quern::gpu
