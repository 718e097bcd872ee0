#include <algorithm>

#include "kernels/cuda/blas.h"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/exponents.h"
#include "kernels/cuda/numeric.cuh"
#include "kernels/cuda/statistics_ops.h"

namespace quern::gpu {
namespace {

using namespace numeric;

constexpr std::int64_t kTile = 1024;           // edge of the part of X^T X that is formed at once
constexpr std::int64_t kWorkBytes = 32 << 20;  // of products that meet the sums in the L2 cache
constexpr std::int64_t kChunkRowsOf16Bit = 2048;  // deep enough to keep the tensor cores busy
constexpr int kThreads = 256;
constexpr int kRowsOfBlock = 8;
constexpr int kEnergyRows = 32;

/// Block of 32 columns; thread (i, j) sums column i over tokens j, j + 32, ...
template <typename T>
__global__ void energies_kernel(const T* x, std::int64_t tokens, std::int64_t channels,
                                double* energies) {
  __shared__ double parts[kEnergyRows][kWarp];
  const std::int64_t column = std::int64_t{blockIdx.x} * kWarp + threadIdx.x;
  double sum = 0.0;
  if (column < channels) {
    for (std::int64_t t = threadIdx.y; t < tokens; t += kEnergyRows) {
      const double value = to_double(x[t * channels + column]);
      sum += value * value;
    }
  }
  parts[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= channels) return;
  double total = 0.0;
  for (int row = 0; row < kEnergyRows; ++row) total += parts[row][threadIdx.x];
  energies[column] = total;
}

/// Some chunks of tokens on one tile of the upper triangle.
struct GramTile {
  std::int64_t chunks;
  std::int64_t row, rows;
  std::int64_t column, columns;
  std::int64_t channels;
  double limit;
  const std::int32_t* exponents;
  std::int64_t* sums;
  std::int64_t* overflow;
};

/// Thread x: one column of the tile; block y: kRowsOfBlock of its rows. products [chunks, rows,
/// columns]
template <typename W>
__global__ void add_tile_kernel(const W* products, GramTile tile) {
  const std::int64_t across = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const std::int64_t j = tile.column + across;
  const std::int64_t end = min((std::int64_t{blockIdx.y} + 1) * kRowsOfBlock, tile.rows);
  const std::int64_t elems = tile.rows * tile.columns;
  unsigned refused = 0;
  if (across < tile.columns) {
    const double column_scale = power_of_two(tile.exponents[j]);
    for (std::int64_t down = std::int64_t{blockIdx.y} * kRowsOfBlock; down < end; ++down) {
      const std::int64_t i = tile.row + down;
      if (j < i) break;
      const double row_scale = power_of_two(tile.exponents[i]);
      const W* entries = products + down * tile.columns + across;
      std::int64_t sum = 0;
      for (std::int64_t chunk = 0; chunk < tile.chunks; ++chunk) {
        const double scaled =
            static_cast<double>(entries[chunk * elems]) * row_scale * column_scale;
        const bool fits = fabs(scaled) < tile.limit;
        refused += fits ? 0 : 1;
        sum += fits ? __double2ll_rn(scaled) : 0;
      }
      tile.sums[i * tile.channels + j] += sum;
    }
  }
  count_refused(refused, tile.overflow);
}

/// One thread per channel.
__global__ void diagonal_kernel(const std::int64_t* sums, const std::int32_t* exponents,
                                std::int64_t channels, double* diagonal) {
  const std::int64_t k = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (k >= channels) return;
  const double scale = power_of_two(-exponents[k]);
  diagonal[k] = static_cast<double>(sums[k * channels + k]) * scale * scale;
}

std::int64_t chunk_rows(DType dtype) {
  return dtype_bytes(dtype) == 2 ? kChunkRowsOf16Bit : StatisticsOps::gram_chunk_rows;
}

/// Chunks of equal length that are added together.
struct ChunkRun {
  std::int64_t begin;   ///< token
  std::int64_t count;   ///< chunks
  std::int64_t tokens;  ///< of each
};

/// The next chunks of `rows` tokens from token `begin` on, at most `at_once` of them.
ChunkRun next_run(std::int64_t begin, std::int64_t tokens, std::int64_t rows,
                  std::int64_t at_once) {
  const std::int64_t whole = (tokens - begin) / rows;
  if (whole == 0) return {begin, 1, tokens - begin};
  return {begin, std::min(whole, at_once), rows};
}

/// Forms and adds the tile's products of one run of chunks.
void add_run(CudaContext& context, ConstTensorView x, const ChunkRun& run, const GramTile& tile,
             TensorView products) {
  const auto bytes = static_cast<std::int64_t>(dtype_bytes(x.dtype));
  const std::byte* first = x.data + run.begin * tile.channels * bytes;
  multiply_transposed(context,
                      {.rows = tile.rows,
                       .columns = tile.columns,
                       .depth = run.tokens,
                       .a = first + tile.row * bytes,
                       .a_row = tile.channels,
                       .a_batch = run.tokens * tile.channels,
                       .b = first + tile.column * bytes,
                       .b_row = tile.channels,
                       .b_batch = run.tokens * tile.channels,
                       .dtype = x.dtype,
                       .batch = run.count},
                      products);
  const dim3 grid(block_count(tile.columns, kThreads), block_count(tile.rows, kRowsOfBlock));
  with_wide(products.dtype, [&]<typename W>(TypeTag<W>) {
    add_tile_kernel<<<grid, kThreads, 0, context.stream>>>(products.as<W>(), tile);
  });
  check_launch("accumulate_gram");
}

}  // namespace

void multiply_transposed(CudaContext& context, const TransposedProduct& product, TensorView c) {
  ensure(c.dtype == wide_dtype(product.dtype), "products of the type that they are summed in");
  const BlasSums sums = blas_sums(product.dtype);
  const cudaDataType_t type = cuda_type(product.dtype);
  // cuBLAS counts down columns: it sees the operands transposed and forms c^T = b^T a.
  check_cuda(
      cublasGemmStridedBatchedEx(
          context.cublas, CUBLAS_OP_N, CUBLAS_OP_T, static_cast<int>(product.columns),
          static_cast<int>(product.rows), static_cast<int>(product.depth), sums.one, product.b,
          type, static_cast<int>(product.b_row), product.b_batch, product.a, type,
          static_cast<int>(product.a_row), product.a_batch, sums.zero, c.data, cuda_type(c.dtype),
          static_cast<int>(product.columns), product.rows * product.columns,
          static_cast<int>(product.batch), sums.type, CUBLAS_GEMM_DEFAULT),
      "statistics product");
}

void CudaStatisticsOps::do_choose_gram_exponents(ConstTensorView x, std::int64_t total_tokens,
                                                 int headroom_bits, TensorView exponents) {
  const std::int64_t tokens = x.shape[0];
  const std::int64_t channels = x.shape[1];
  Tensor energies = context_.memory.allocate(DType::f64, {channels});
  auto* sums = energies.view().as<double>();
  with_plain_float(x.dtype, [&](auto element) {
    using T = typename decltype(element)::Type;
    energies_kernel<<<block_count(channels, kWarp), dim3(kWarp, kEnergyRows), 0, context_.stream>>>(
        x.as<T>(), tokens, channels, sums);
  });
  check_launch("choose_gram_exponents");
  const double growth =
      static_cast<double>(total_tokens) / static_cast<double>(std::max<std::int64_t>(1, tokens));
  fill_exponents(context_, sums, {growth, 62 - headroom_bits, true}, exponents);
}

TensorView CudaStatisticsOps::tile_products(std::int64_t elems) {
  if (products_.shape().elems() < elems) {
    products_ = context_.memory.allocate(wide_dtype(context_.activation), {elems});
    // cuBLAS writes them in bulk, which compute-sanitizer's initcheck does not see.
    context_.memory.clear(products_.view());
  }
  return products_.view();
}

void CudaStatisticsOps::do_accumulate_gram(ConstTensorView x, std::int64_t total_tokens,
                                           const GramView& gram) {
  expect_activation(context_, "accumulate_gram", {x});
  const std::int64_t tokens = x.shape[0];
  const std::int64_t channels = x.shape[1];
  const std::int64_t edge = std::min(kTile, channels);
  const std::int64_t rows = chunk_rows(x.dtype);
  const auto bytes = static_cast<std::int64_t>(dtype_bytes(wide_dtype(x.dtype)));
  const std::int64_t fit = std::max<std::int64_t>(1, kWorkBytes / (edge * edge * bytes));
  const std::int64_t at_once = std::min(fit, (tokens + rows - 1) / rows);
  const TensorView products = tile_products(at_once * edge * edge);
  for (std::int64_t begin = 0; begin < tokens;) {
    const ChunkRun run = next_run(begin, tokens, rows, at_once);
    const double share =
        static_cast<double>(run.tokens) / static_cast<double>(std::max(run.tokens, total_tokens));
    for (std::int64_t row = 0; row < channels; row += edge) {
      for (std::int64_t column = row; column < channels; column += edge) {
        add_run(context_, x, run,
                {.chunks = run.count,
                 .row = row,
                 .rows = std::min(edge, channels - row),
                 .column = column,
                 .columns = std::min(edge, channels - column),
                 .channels = channels,
                 .limit = 0x1p62 * share,
                 .exponents = gram.exponents.as<std::int32_t>(),
                 .sums = gram.sums.as<std::int64_t>(),
                 .overflow = gram.overflow.as<std::int64_t>()},
                products);
      }
    }
    begin += run.count * run.tokens;
  }
}

void read_gram_diagonal(CudaContext& context, const GramView& gram, TensorView out) {
  const std::int64_t channels = out.shape[0];
  diagonal_kernel<<<block_count(channels, kThreads), kThreads, 0, context.stream>>>(
      gram.sums.as<std::int64_t>(), gram.exponents.as<std::int32_t>(), channels, out.as<double>());
  check_launch("gram_diagonal");
}

void CudaStatisticsOps::do_gram_diagonal(const GramView& gram, TensorView out) {
  read_gram_diagonal(context_, gram, out);
}

}  // namespace quern::gpu

namespace quern {

std::unique_ptr<StatisticsOps> make_cuda_statistics_ops(CudaContext& context) {
  return std::make_unique<gpu::CudaStatisticsOps>(context);
}

}  // namespace quern
