#include <algorithm>
#include <span>
#include <vector>

#include "kernels/cuda/errors.h"
#include "kernels/cuda/factorise.h"
#include "kernels/cuda/numeric.cuh"
#include "kernels/cuda/statistics_ops.h"
#include "kernels/solver_setup.h"

namespace quern::gpu {
namespace {

using namespace numeric;

constexpr int kThreads = 256;

std::span<std::byte> bytes_of(auto& values) {
  return std::as_writable_bytes(std::span(values));
}

/// H as the host needs it: its diagonal, and what came of its sums.
struct Spectrum {
  std::vector<double> diagonal;  ///< checkpoint order
  DiagonalSummary summary;
};

/// What the permutation and the damping of H depend on.
struct DampedGram {
  const std::int64_t* sums;
  const std::int32_t* exponents;
  const std::int32_t* order;
  const double* diagonal;  ///< checkpoint order
  std::int64_t columns;
  double mean;
  double damping;
};

/// Thread x: column j, block y: row i of the upper triangle of H in solve order, stored reversed,
/// as a lower one: the Cholesky factor of that is R, reversed. A dead channel is cut off and gets
/// the mean.
__global__ void permute_kernel(DampedGram gram, double* reversed, double* limits) {
  const std::int64_t j = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const std::int64_t n = gram.columns;
  for (std::int64_t i = blockIdx.y; i <= j && j < n; i += gridDim.y) {
    const std::int64_t row = gram.order[i];
    const std::int64_t column = gram.order[j];
    const bool dead = gram.diagonal[row] == 0.0 || gram.diagonal[column] == 0.0;
    double value = 0.0;
    if (!dead) {
      const std::int64_t fixed = gram.sums[min(row, column) * n + max(row, column)];
      value = static_cast<double>(fixed) * power_of_two(-gram.exponents[row]) *
              power_of_two(-gram.exponents[column]);
    }
    if (i == j) {
      value = __dadd_rn(dead ? gram.mean : value, gram.damping);
      // Below this a pivot is the rounding error of the eliminations that led to it.
      limits[j] = static_cast<double>(n) * 0x1p-52 * value;
    }
    reversed[n * n - 1 - (i * n + j)] = value;
  }
}

/// One thread per step: R_jj and its square; failed becomes 1 where a pivot is not sound.
__global__ void pivots_kernel(const double* reversed, const double* limits, std::int64_t columns,
                              double* pivots, double* weight, int* failed) {
  const std::int64_t j = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (j >= columns) return;
  const double pivot = reversed[columns * columns - 1 - (j * columns + j)];
  pivots[j] = pivot;
  weight[j] = pivot * pivot;
  if (!(pivot > 0.0) || !(weight[j] > limits[j]) || !isfinite(pivot)) atomicMax(failed, 1);
}

/// Thread x: column j, block y: row i <= j of S. R_ij lies below the diagonal, at the mirror place
/// of where it goes; so nothing is overwritten before it is read.
__global__ void normalise_kernel(double* matrix, const double* pivots, std::int64_t n) {
  const std::int64_t j = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  for (std::int64_t i = blockIdx.y; i < j && j < n; i += gridDim.y) {
    double* mirror = matrix + (n * n - 1 - (i * n + j));
    matrix[i * n + j] = *mirror / pivots[j];
    *mirror = 0.0;
  }
  if (j < n && blockIdx.y == 0) matrix[j * n + j] = 1.0;
}

dim3 triangle_grid(std::int64_t columns) {
  return {block_count(columns, kThreads),
          static_cast<unsigned>(std::min<std::int64_t>(columns, 1024))};
}

Spectrum read_spectrum(CudaContext& context, const GramView& gram, TensorView diagonal) {
  const std::int64_t columns = gram.sums.shape[0];
  read_gram_diagonal(context, gram, diagonal);
  Spectrum spectrum;
  spectrum.diagonal.resize(static_cast<std::size_t>(columns));
  std::vector<std::int64_t> overflow(1);
  context.memory.download(diagonal, bytes_of(spectrum.diagonal));
  context.memory.download(gram.overflow, bytes_of(overflow));
  context.memory.synchronize();
  spectrum.summary = summarise_diagonal(spectrum.diagonal, overflow[0]);
  return spectrum;
}

/// Working space of the factorisations of one H.
struct FactorWork {
  FactorWork(Memory& memory, std::int64_t columns)
      : limits(memory.allocate(DType::f64, {columns})),
        pivots(memory.allocate(DType::f64, {columns})),
        failed(memory.allocate(DType::i32, {1})) {}

  Tensor limits;
  Tensor pivots;
  Tensor failed;  ///< whether a pivot is not sound
};

/// The factor of one damping, reversed, in place. False if H is not positive definite to working
/// precision. Synchronises.
bool try_damping(CudaContext& context, Cholesky& cholesky, const DampedGram& gram, FactorWork& work,
                 HessianFactor& factor) {
  const std::int64_t columns = gram.columns;
  auto* matrix = factor.feedback.view().as<double>();
  auto* failed = work.failed.view().as<std::int32_t>();
  context.memory.clear(work.failed.view());
  context.memory.clear(factor.feedback.view());  // products reach into the other triangle
  permute_kernel<<<triangle_grid(columns), kThreads, 0, context.stream>>>(
      gram, matrix, work.limits.view().as<double>());
  check_launch("factorise");
  cholesky.factor(factor.feedback.view());
  pivots_kernel<<<block_count(columns, kThreads), kThreads, 0, context.stream>>>(
      matrix, work.limits.view().as<double>(), columns, work.pivots.view().as<double>(),
      factor.weight.view().as<double>(), failed);
  check_launch("factorise");
  std::vector<std::int32_t> outcome(1);
  context.memory.download(work.failed.view(), bytes_of(outcome));
  context.memory.synchronize();
  return outcome[0] == 0;
}

}  // namespace

HessianFactor factorise_gram(CudaContext& context, Cholesky& cholesky, const GramView& gram,
                             ActOrder order, std::int64_t group_size, const Damping& damping) {
  Memory& memory = context.memory;
  const std::int64_t columns = gram.sums.shape[0];
  HessianFactor factor{.feedback = Tensor(),
                       .diagonal = memory.allocate(DType::f64, {columns}),
                       .order = memory.allocate(DType::i32, {columns}),
                       .weight = memory.allocate(DType::f64, {columns}),
                       .act_order = order};
  const Spectrum spectrum = read_spectrum(context, gram, factor.diagonal.view());
  factor.dead_columns = spectrum.summary.dead;
  std::vector<std::int32_t> columns_in_order = solve_order(spectrum.diagonal, order, group_size);
  memory.upload(bytes_of(columns_in_order), factor.order.view());
  factor.feedback = memory.allocate(DType::f64, {columns, columns});

  FactorWork work(memory, columns);
  memory.synchronize();  // the order has arrived: it may be dropped
  factor.damping_fraction = least_damping(damping, [&](double fraction) {
    const DampedGram damped{gram.sums.as<std::int64_t>(),
                            gram.exponents.as<std::int32_t>(),
                            factor.order.view().as<std::int32_t>(),
                            factor.diagonal.view().as<double>(),
                            columns,
                            spectrum.summary.mean,
                            fraction * spectrum.summary.mean};
    return try_damping(context, cholesky, damped, work, factor);
  });
  normalise_kernel<<<triangle_grid(columns), kThreads, 0, context.stream>>>(
      factor.feedback.view().as<double>(), work.pivots.view().as<double>(), columns);
  check_launch("factorise");
  return factor;
}

}  // namespace quern::gpu
