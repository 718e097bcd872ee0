#include <algorithm>

#include "kernels/cuda/codebook_normal.h"
#include "kernels/cuda/codebook_table.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/products.h"

namespace quern::gpu {
namespace {

using namespace numeric;
using namespace codebook;

constexpr int kThreads = 256;
constexpr std::int64_t kWorkElems = 1 << 25;  // of the one-hot codes held at a time
constexpr double kRidge = 1e-9;               // of each diagonal entry
constexpr double kLeastPivot = 1e-12;         // of the diagonal entry: below is rounding

/// Block x: a row; block y: one of its codes. one_hot [rows, count, K].
__global__ void one_hot_kernel(StateView state, std::int64_t first_row, double* one_hot) {
  const std::int64_t row = (first_row + blockIdx.x) * state.columns;
  double* out = one_hot + (std::int64_t{blockIdx.x} * state.count + blockIdx.y) * state.columns;
  for (std::int64_t k = threadIdx.x; k < state.columns; k += kThreads) {
    const bool own = state.mask[row + k] == 0 && state.codes[row + k] == blockIdx.y;
    out[k] = own ? 1.0 : 0.0;
  }
}

/// One block per row: pull = (A + ridge)^-1 pull. L takes the place of A's lower triangle; a pivot
/// of 0 marks a centroid that stays.
__global__ void solve_kernel(double* matrices, int n, double* pulls) {
  __shared__ double root;
  __shared__ double solution[kMaxCount];
  double* a = matrices + std::int64_t{blockIdx.x} * n * n;
  double* pull = pulls + std::int64_t{blockIdx.x} * n;
  for (int j = 0; j < n; ++j) {
    if (threadIdx.x == 0) {
      const double diagonal = a[j * n + j];
      double pivot = diagonal * (1.0 + kRidge);
      for (int k = 0; k < j; ++k) pivot -= a[j * n + k] * a[j * n + k];
      const bool sound = diagonal > 0.0 && pivot > kLeastPivot * diagonal;
      root = sound ? sqrt(pivot) : 0.0;
      a[j * n + j] = root;
    }
    __syncthreads();
    for (int i = j + 1 + static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) {
      double sum = a[i * n + j];
      for (int k = 0; k < j; ++k) sum -= a[i * n + k] * a[j * n + k];
      a[i * n + j] = root > 0.0 ? sum / root : 0.0;
    }
    __syncthreads();
  }
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) {
    solution[i] = pull[i];
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 0; i < n; ++i) {
    for (int k = 0; k < i; ++k) solution[i] -= a[i * n + k] * solution[k];
    solution[i] = a[i * n + i] > 0.0 ? solution[i] / a[i * n + i] : 0.0;
  }
  for (int i = n; i-- > 0;) {
    for (int k = i + 1; k < n; ++k) solution[i] -= a[k * n + i] * solution[k];
    solution[i] = a[i * n + i] > 0.0 ? solution[i] / a[i * n + i] : 0.0;
    pull[i] = solution[i];
  }
}

}  // namespace

void find_pull(CudaContext& context, const RefineRows& rows, double* pull) {
  const std::int64_t columns = rows.state.columns;
  const std::int64_t count = rows.state.count;
  const std::int64_t batch = std::clamp<std::int64_t>(kWorkElems / (count * columns), 1, rows.rows);
  Memory& memory = context.memory;
  Tensor one_hot = memory.allocate(DType::f64, {batch * count, columns});
  Tensor weighted = memory.allocate(DType::f64, {batch * count, columns});
  Tensor matrices = memory.allocate(DType::f64, {batch * count, count});
  auto* p = one_hot.view().as<double>();
  auto* ph = weighted.view().as<double>();
  auto* a = matrices.view().as<double>();
  for (std::int64_t begin = 0; begin < rows.rows; begin += batch) {
    const std::int64_t own = std::min(batch, rows.rows - begin);
    const dim3 grid(static_cast<unsigned>(own), static_cast<unsigned>(count));
    one_hot_kernel<<<grid, kThreads, 0, context.stream>>>(rows.state, rows.first + begin, p);
    check_launch("refine");
    multiply_f64(context, {own * count, columns, columns, false}, {p, columns}, {rows.h, columns},
                 {ph, columns});
    multiply_batch_f64(context, {count, count, columns, false}, own, ph, p, a);
    multiply_batch_f64(context, {count, 1, columns, false}, own, p, rows.gradient + begin * columns,
                       pull + begin * count);
    const int threads = std::max(kWarp, static_cast<int>(count));
    solve_kernel<<<static_cast<unsigned>(own), threads, 0, context.stream>>>(
        a, static_cast<int>(count), pull + begin * count);
    check_launch("refine");
  }
}

}  // namespace quern::gpu
