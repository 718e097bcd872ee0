#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "kernels/cuda/errors.h"
#include "kernels/cuda/factorise.h"
#include "kernels/cuda/numeric.cuh"
#include "kernels/cuda/statistics_ops.h"
#include "kernels/solver_setup.h"

namespace quern::gpu {
namespace {

using namespace numeric;

constexpr const char* kOperation = "factorise";
constexpr int kThreads = 256;

std::span<std::byte> bytes_of(auto& values) {
  return std::as_writable_bytes(std::span(values));
}

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

/// One H on its way to its factor. Asynchronous, but for what a function says that it waits for.
class Factorisation {
 public:
  /// Asks for what the host has to know of H.
  Factorisation(CudaContext& context, const HessianTask& task) : context_(context), task_(task) {
    Memory& memory = context.memory;
    const std::int64_t columns = task.gram.sums.shape[0];
    factor_.diagonal = memory.allocate(DType::f64, {columns});
    factor_.order = memory.allocate(DType::i32, {columns});
    factor_.weight = memory.allocate(DType::f64, {columns});
    factor_.act_order = task.order;
    factor_.damping_fraction = task.damping.fraction;
    diagonal_.resize(static_cast<std::size_t>(columns));
    read_gram_diagonal(context, task.gram, factor_.diagonal.view());
    memory.download(factor_.diagonal.view(), bytes_of(diagonal_));
    memory.download(task.gram.overflow, bytes_of(overflow_));
  }

  /// Once the diagonal has arrived.
  void choose_order() {
    Memory& memory = context_.memory;
    summary_ = summarise_diagonal(task_, diagonal_, overflow_[0]);
    factor_.dead_columns = summary_.dead;
    order_ = solve_order(diagonal_, task_.order, task_.group_size);
    memory.upload(bytes_of(order_), factor_.order.view());
    factor_.feedback = memory.allocate(DType::f64, {columns(), columns()});
    limits_ = memory.allocate(DType::f64, {columns()});
    pivots_ = memory.allocate(DType::f64, {columns()});
    failed_ = memory.allocate(DType::i32, {1});
  }

  /// H with the damping that is tried, in solve order, reversed.
  TensorView damped() {
    context_.memory.clear(factor_.feedback.view());  // products reach into the other triangle
    permute_kernel<<<triangle_grid(columns()), kThreads, 0, context_.stream>>>(
        {task_.gram.sums.as<std::int64_t>(), task_.gram.exponents.as<std::int32_t>(),
         factor_.order.view().as<std::int32_t>(), factor_.diagonal.view().as<double>(), columns(),
         summary_.mean, factor_.damping_fraction * summary_.mean},
        matrix(), limits_.view().as<double>());
    check_launch(kOperation);
    return factor_.feedback.view();
  }

  /// Asks whether the factor that damped() has become is sound.
  void read_pivots() {
    context_.memory.clear(failed_.view());
    pivots_kernel<<<block_count(columns(), kThreads), kThreads, 0, context_.stream>>>(
        matrix(), limits_.view().as<double>(), columns(), pivots_.view().as<double>(),
        factor_.weight.view().as<double>(), failed_.view().as<std::int32_t>());
    check_launch(kOperation);
    context_.memory.download(failed_.view(), bytes_of(outcome_));
  }

  /// Once the answer has arrived.
  bool is_sound() const { return outcome_[0] == 0; }
  void raise_damping() { factor_.damping_fraction = next_damping(task_, factor_.damping_fraction); }

  HessianFactor finish() {
    normalise_kernel<<<triangle_grid(columns()), kThreads, 0, context_.stream>>>(
        matrix(), pivots_.view().as<double>(), columns());
    check_launch(kOperation);
    return std::move(factor_);
  }

 private:
  std::int64_t columns() const { return task_.gram.sums.shape[0]; }
  double* matrix() { return factor_.feedback.view().as<double>(); }

  CudaContext& context_;
  HessianTask task_;
  HessianFactor factor_;                   ///< damping_fraction: the one that is tried
  std::vector<double> diagonal_;           ///< of H, checkpoint order
  std::vector<std::int64_t> overflow_{0};  ///< of its sums
  std::vector<std::int32_t> order_;        ///< columns in solve order
  DiagonalSummary summary_;
  Tensor limits_;                         ///< [K] f64: least square of each pivot
  Tensor pivots_;                         ///< [K] f64
  Tensor failed_;                         ///< [1] i32: whether a pivot is not sound
  std::vector<std::int32_t> outcome_{0};  ///< `failed_` on the host
};

}  // namespace

std::vector<HessianFactor> factorise_grams(CudaContext& context, Cholesky& cholesky,
                                           std::span<const HessianTask> tasks) {
  std::vector<Factorisation> all;
  for (const HessianTask& task : tasks) all.emplace_back(context, task);
  context.memory.synchronize();
  std::vector<Factorisation*> open;
  for (Factorisation& begun : all) {
    begun.choose_order();
    open.push_back(&begun);
  }
  while (!open.empty()) {
    std::vector<TensorView> matrices;
    for (Factorisation* begun : open) matrices.push_back(begun->damped());
    cholesky.factor(matrices);
    for (Factorisation* begun : open) begun->read_pivots();
    context.memory.synchronize();
    std::erase_if(open, [](const Factorisation* begun) { return begun->is_sound(); });
    for (Factorisation* begun : open) begun->raise_damping();
  }
  std::vector<HessianFactor> factors;
  for (Factorisation& begun : all) factors.push_back(begun.finish());
  return factors;
}

}  // namespace quern::gpu
