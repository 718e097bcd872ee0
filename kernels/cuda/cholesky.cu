#include <algorithm>

#include "kernels/cuda/blas.h"
#include "kernels/cuda/cholesky.h"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/products.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/stream.h"

namespace quern::gpu {

// Right-looking, by panels of columns (Dongarra, Duff, Sorensen, van der Vorst, Numerical Linear
// Algebra for High-Performance Computers, section 5.4), each panel by blocks in the same way.

namespace {

/// Columns [begin, end) of the matrix.
struct Columns {
  std::int64_t begin;
  std::int64_t end;
};

constexpr const char* kOperation = "factorise";
constexpr std::int64_t kPanel = 512;    // columns that reach those behind them by one product
constexpr std::int64_t kSpread = 1024;  // columns that a product reaches, at most
constexpr int kBlock = 128;             // columns factorised by one thread block
constexpr int kStrip = 16;              // of them by one warp
constexpr int kThreads = kStrip * kStrip;
constexpr int kStrips = kBlock / kStrip;
constexpr int kParts = 8;                      // threads that share a row below the block
constexpr int kRowsBelow = kThreads / kParts;  // of one thread block
constexpr int kOwn = kBlock / kParts;          // columns of a row that a thread has
constexpr int kOwnOfStrip = kStrip / kParts;
static_assert(kPanel % kBlock == 0);
constexpr std::size_t kMostMatrices = 8;

/// Matrices of one size that are factorised side by side.
struct Matrices {
  double* data[kMostMatrices];
  int count;
  std::int64_t rows;

  /// The parts of each that begin at this place.
  __host__ Matrices at(std::int64_t row, std::int64_t column) const {
    Matrices moved = *this;
    for (int i = 0; i < count; ++i) moved.data[i] += row * rows + column;
    return moved;
  }
};

/// The lower triangle of a block in tiles of kStrip rows and columns, two columns wider than
/// needed: then pairs of elements of different rows lie in different banks.
struct alignas(16) SharedBlock {
  double tiles[kStrips * (kStrips + 1) / 2][kStrip][kStrip + 2];
  double inverse[kBlock];  ///< 1 / L_jj

  __device__ auto& tile(int row, int column) { return tiles[row * (row + 1) / 2 + column]; }
  __device__ double& at(int row, int column) {
    return tile(row / kStrip, column / kStrip)[row % kStrip][column % kStrip];
  }
};

__device__ double2 pair_at(const double* values) {
  return *reinterpret_cast<const double2*>(values);
}

/// The corner of a strip becomes its factor. Called by one warp, a lane for each row, twice.
__device__ void factor_corner(SharedBlock& shared, int strip) {
  const int row = static_cast<int>(threadIdx.x) % kStrip;
  double* in = shared.tile(strip, strip)[row];
  double own[kStrip];
#pragma unroll
  for (int j = 0; j < kStrip; ++j) own[j] = in[j];
#pragma unroll
  for (int j = 0; j < kStrip; ++j) {
    const double pivot = __shfl_sync(kWholeWarp, own[j], j);
    const double inverse = rsqrt(pivot);
    own[j] = row == j ? pivot * inverse : own[j] * inverse;
    if (threadIdx.x == 0) shared.inverse[strip * kStrip + j] = inverse;
#pragma unroll
    for (int m = j + 1; m < kStrip; ++m) {
      own[m] = fma(-own[j], __shfl_sync(kWholeWarp, own[j], m), own[m]);
    }
  }
  __syncwarp();  // both lanes of a row have read it
  if (threadIdx.x >= kStrip) return;
#pragma unroll
  for (int j = 0; j < kStrip; ++j) {
    if (j <= row) in[j] = own[j];
  }
}

/// A row below the corner of a strip: x with x L^T = what is there.
__device__ void solve_row(SharedBlock& shared, int strip, int row) {
  const auto& corner = shared.tile(strip, strip);
  double* in = shared.tile(row / kStrip, strip)[row % kStrip];
  double own[kStrip];
#pragma unroll
  for (int j = 0; j < kStrip; ++j) own[j] = in[j];
#pragma unroll
  for (int j = 0; j < kStrip; ++j) {
    own[j] *= shared.inverse[strip * kStrip + j];
#pragma unroll
    for (int m = j + 1; m < kStrip; ++m) own[m] = fma(-own[j], corner[m][j], own[m]);
  }
#pragma unroll
  for (int j = 0; j < kStrip; ++j) in[j] = own[j];
}

/// Takes what a strip means for those behind it off them. A thread works on one place of each tile.
__device__ void update_block(SharedBlock& shared, int strip) {
  const int row = static_cast<int>(threadIdx.x) / kStrip;
  const int column = static_cast<int>(threadIdx.x) % kStrip;
  const int left = kStrips - 1 - strip;
  double sums[kStrips - 1][kStrips - 1] = {};
#pragma unroll
  for (int depth = 0; depth < kStrip; depth += 2) {
    double2 rows[kStrips - 1];
    double2 columns[kStrips - 1];
#pragma unroll
    for (int i = 0; i < kStrips - 1; ++i) {
      if (i >= left) break;
      const auto& tile = shared.tile(strip + 1 + i, strip);
      rows[i] = pair_at(&tile[row][depth]);
      columns[i] = pair_at(&tile[column][depth]);
#pragma unroll
      for (int j = 0; j <= i; ++j) {
        sums[i][j] = fma(rows[i].x, columns[j].x, sums[i][j]);
        sums[i][j] = fma(rows[i].y, columns[j].y, sums[i][j]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kStrips - 1; ++i) {
#pragma unroll
    for (int j = 0; j <= i; ++j) {
      if (i < left) shared.tile(strip + 1 + i, strip + 1 + j)[row][column] -= sums[i][j];
    }
  }
}

/// Reads the lower triangle of a block of `count` rows; beyond it lies the identity.
__device__ void load_block(SharedBlock& shared, const double* matrix, std::int64_t stride,
                           int count) {
#pragma unroll 8
  for (int element = static_cast<int>(threadIdx.x); element < kBlock * kBlock;
       element += kThreads) {
    const int i = element / kBlock;
    const int j = element % kBlock;
    double value = i == j ? 1.0 : 0.0;
    if (i < count && j <= i) value = matrix[i * stride + j];
    if (j / kStrip <= i / kStrip) shared.at(i, j) = value;
  }
}

/// The factors of the blocks of `count` rows at `corners`, in place, each by one thread block.
__global__ void __launch_bounds__(kThreads)
    block_kernel(const __grid_constant__ Matrices corners, int count) {
  double* matrix = corners.data[blockIdx.x];
  const std::int64_t stride = corners.rows;
  extern __shared__ __align__(16) unsigned char memory[];
  auto& shared = *reinterpret_cast<SharedBlock*>(memory);
  const int thread = static_cast<int>(threadIdx.x);
  load_block(shared, matrix, stride, count);
  __syncthreads();
#pragma unroll 1
  for (int strip = 0; strip < kStrips; ++strip) {
    if (thread < 2 * kStrip) factor_corner(shared, strip);
    __syncthreads();
    const int row = (strip + 1) * kStrip + thread;
    if (row < kBlock) solve_row(shared, strip, row);
    __syncthreads();
    update_block(shared, strip);
    __syncthreads();
  }
#pragma unroll 8
  for (int element = thread; element < kBlock * kBlock; element += kThreads) {
    const int i = element / kBlock;
    const int j = element % kBlock;
    if (i < count && j <= i) matrix[i * stride + j] = shared.at(i, j);
  }
}

/// A row x below the block: x with x L^T = what it is. Of the threads that share it, part p has
/// column kParts i + p in own[i].
__device__ void solve_row_below(SharedBlock& shared, double (&own)[kOwn]) {
  const int part = static_cast<int>(threadIdx.x) % kParts;
#pragma unroll
  for (int strip = 0; strip < kStrips; ++strip) {
    const auto& corner = shared.tile(strip, strip);
    double solved[kStrip];
#pragma unroll
    for (int j = 0; j < kStrip; ++j) {
      double& owned = own[strip * kOwnOfStrip + j / kParts];
      const double value = owned * shared.inverse[strip * kStrip + j];
      solved[j] = __shfl_sync(kWholeWarp, value, j % kParts, kParts);
      if (part == j % kParts) owned = value;
#pragma unroll
      for (int i = j / kParts; i < kOwnOfStrip; ++i) {
        const int column = kParts * i + part;
        double& later = own[strip * kOwnOfStrip + i];
        if (column > j) later = fma(-solved[j], corner[column][j], later);
      }
    }
#pragma unroll
    for (int behind = strip + 1; behind < kStrips; ++behind) {
      const auto& tile = shared.tile(behind, strip);
#pragma unroll
      for (int i = 0; i < kOwnOfStrip; ++i) {
        double& later = own[behind * kOwnOfStrip + i];
#pragma unroll
        for (int j = 0; j < kStrip; j += 2) {
          const double2 factors = pair_at(&tile[kParts * i + part][j]);
          later = fma(-solved[j], factors.x, later);
          later = fma(-solved[j + 1], factors.y, later);
        }
      }
    }
  }
}

/// The `below` rows under each block, whose factor is at `corners`, in place. A thread block takes
/// kRowsBelow of one matrix at a time.
__global__ void __launch_bounds__(kThreads)
    rows_kernel(const __grid_constant__ Matrices corners, std::int64_t below) {
  double* matrix = corners.data[blockIdx.y];
  const std::int64_t stride = corners.rows;
  extern __shared__ __align__(16) unsigned char memory[];
  auto& shared = *reinterpret_cast<SharedBlock*>(memory);
  const int thread = static_cast<int>(threadIdx.x);
  load_block(shared, matrix, stride, kBlock);
  if (thread < kBlock) shared.inverse[thread] = 1.0 / matrix[thread * stride + thread];
  __syncthreads();
  const std::int64_t in_pass = std::int64_t{gridDim.x} * kRowsBelow;
  const std::int64_t first = std::int64_t{blockIdx.x} * kRowsBelow + thread / kParts;
  for (std::int64_t pass = 0; pass < below; pass += in_pass) {
    const std::int64_t row = pass + first;
    double* in = matrix + (kBlock + min(row, below - 1)) * stride + thread % kParts;
    double own[kOwn];
#pragma unroll
    for (int i = 0; i < kOwn; ++i) own[i] = in[kParts * i];
    solve_row_below(shared, own);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      if (row < below) in[kParts * i] = own[i];
    }
  }
}

/// Columns `out`, from the diagonal down, less what columns `panel` of L, which lie before them,
/// mean for them. Each matrix by the products that it would have alone.
void update(CudaContext& context, const Columns& panel, const Columns& out,
            const Matrices& matrices) {
  const std::int64_t rows = matrices.rows;
  const Matrices factors = matrices.at(out.begin, panel.begin);
  const Matrices corners = matrices.at(out.begin, out.begin);
  for (int i = 0; i < matrices.count; ++i) {
    subtract_transposed_f64(
        context, {rows - out.begin, out.end - out.begin, panel.end - panel.begin},
        {factors.data[i], rows}, {factors.data[i], rows}, {corners.data[i], rows});
  }
}

/// Columns `panel` of L, from the diagonal down; all columns before them were taken off.
void factor_panel(CudaContext& context, const Columns& panel, const Matrices& matrices) {
  constexpr std::size_t kBytes = sizeof(SharedBlock);
  const auto count = static_cast<unsigned>(matrices.count);
  for (std::int64_t begin = panel.begin; begin < panel.end; begin += kBlock) {
    const Columns block{begin, std::min(begin + kBlock, panel.end)};
    const Matrices corners = matrices.at(begin, begin);
    block_kernel<<<count, kThreads, kBytes, context.stream>>>(corners,
                                                              static_cast<int>(block.end - begin));
    check_launch(kOperation);
    const std::int64_t below = matrices.rows - block.end;
    if (below == 0) return;
    const std::int64_t strips =
        std::min<std::int64_t>((below + kRowsBelow - 1) / kRowsBelow, 2 * context.multiprocessors);
    const dim3 grid(static_cast<unsigned>(strips), count);
    rows_kernel<<<grid, kThreads, kBytes, context.stream>>>(corners, below);
    check_launch(kOperation);
    if (block.end < panel.end) update(context, block, {block.end, panel.end}, matrices);
  }
}

/// What `later` does from now on waits for what `earlier` was given so far.
void order(cudaStream_t earlier, cudaStream_t later, const UniqueEvent& event) {
  check_cuda(cudaEventRecord(event.get(), earlier), kOperation);
  check_cuda(cudaStreamWaitEvent(later, event.get(), 0), kOperation);
}

}  // namespace

Cholesky::Cholesky(CudaContext& context)
    : context_(context),
      workspace_(context.memory.allocate(DType::u8, context.workspace.shape)),
      stream_(make_urgent_stream(context.device)),
      cublas_(make_cublas(stream_.get(), workspace_.view())),
      ahead_(context),
      panel_done_(make_event()),
      rest_done_(make_event()) {
  ahead_.stream = stream_.get();
  ahead_.cublas = cublas_.get();
  ahead_.workspace = workspace_.view();
  constexpr auto kBytes = static_cast<int>(sizeof(SharedBlock));
  constexpr auto kMost = cudaFuncAttributeMaxDynamicSharedMemorySize;
  check_cuda(cudaFuncSetAttribute(block_kernel, kMost, kBytes), kOperation);
  check_cuda(cudaFuncSetAttribute(rows_kernel, kMost, kBytes), kOperation);
}

Cholesky::~Cholesky() {
  cudaStreamSynchronize(stream_.get());
}

void Cholesky::factor(std::span<const TensorView> matrices) {
  for (; matrices.size() > kMostMatrices; matrices = matrices.subspan(kMostMatrices)) {
    factor(matrices.first(kMostMatrices));
  }
  const std::int64_t rows = matrices.front().shape[0];
  Matrices all{.data = {}, .count = 0, .rows = rows};
  for (const TensorView& matrix : matrices) all.data[all.count++] = matrix.as<double>();
  order(context_.stream, ahead_.stream, rest_done_);
  for (std::int64_t begin = 0; begin < rows; begin += kPanel) {
    const Columns panel{begin, std::min(begin + kPanel, rows)};
    factor_panel(ahead_, panel, all);
    order(context_.stream, ahead_.stream, rest_done_);  // the rest has felt the panel before
    order(ahead_.stream, context_.stream, panel_done_);
    const Columns next{panel.end, std::min(panel.end + kPanel, rows)};
    if (next.begin < rows) update(ahead_, panel, next, all);
    for (std::int64_t at = next.end; at < rows; at += kSpread) {
      update(context_, panel, {at, std::min(at + kSpread, rows)}, all);
    }
  }
}

}  // namespace quern::gpu
