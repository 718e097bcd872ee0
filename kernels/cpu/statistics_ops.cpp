#include "kernels/cpu/statistics_ops.h"

#include <omp.h>

#include <algorithm>
#include <cmath>

#include "kernels/cpu/blas.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/exponents.h"
#include "kernels/cpu/row_kernels.h"
#include "kernels/cpu/tiles.h"

namespace quern {
namespace {

constexpr std::int64_t kTile = 192;
constexpr std::int64_t kChannels = 64;  // channels whose squares one thread sums

/// Tile number `index` of the upper triangle, counted down each column of tiles.
Tile gram_tile(std::int64_t index, std::int64_t channels) {
  std::int64_t across = 0;
  while (index > across) index -= ++across;
  const std::int64_t row = index * kTile;
  const std::int64_t column = across * kTile;
  return {row, std::min(kTile, channels - row), column, std::min(kTile, channels - column)};
}

/// What all tiles of one accumulation share.
struct GramTask {
  ConstTensorView x;
  const double* scales;  ///< 2^exponent of each channel
  std::int64_t total_tokens;
  std::int64_t* sums;
};

/// Adds every chunk's products of one tile; returns how many entries were refused.
template <typename T>
std::int64_t accumulate_tile(const GramTask& task, const Tile& tile, T* products) {
  const std::int64_t tokens = task.x.shape[0];
  const std::int64_t channels = task.x.shape[1];
  std::int64_t refused = 0;
  for (std::int64_t begin = 0; begin < tokens; begin += StatisticsOps::gram_chunk_rows) {
    const std::int64_t count = std::min(StatisticsOps::gram_chunk_rows, tokens - begin);
    const T* chunk = task.x.as<T>() + begin * channels;
    multiply({tile.rows, tile.columns, count}, {chunk + tile.row, channels, true},
             {chunk + tile.column, channels}, products, tile.columns);
    const double share =
        static_cast<double>(count) / static_cast<double>(std::max(count, task.total_tokens));
    for (std::int64_t i = 0; i < tile.rows; ++i) {
      const std::int64_t row = tile.row + i;
      const std::int64_t skip = std::max<std::int64_t>(0, row - tile.column);
      refused +=
          add_fixed_point<T>({.products = products + i * tile.columns + skip,
                              .row_scale = task.scales[row],
                              .column_scales = task.scales + tile.column + skip,
                              .limit = 0x1p62 * share},
                             tile.columns - skip, task.sums + row * channels + tile.column + skip);
    }
  }
  return refused;
}

}  // namespace

void CpuStatisticsOps::do_choose_gram_exponents(ConstTensorView x, std::int64_t total_tokens,
                                                int headroom_bits, TensorView exponents) {
  expect_activation("choose_gram_exponents", {{"x", x}});
  const std::int64_t tokens = x.shape[0];
  const std::int64_t channels = x.shape[1];
  channels_.reserve(channels * static_cast<std::int64_t>(sizeof(double)));
  auto* energies = channels_.of_thread<double>(0);
  const double growth =
      static_cast<double>(total_tokens) / static_cast<double>(std::max<std::int64_t>(1, tokens));
  with_activation(x.dtype, [&]<typename T>(T) {
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (std::int64_t begin = 0; begin < channels; begin += kChannels) {
      const std::int64_t count = std::min(kChannels, channels - begin);
      std::fill_n(energies + begin, count, 0.0);
      for (std::int64_t t = 0; t < tokens; ++t) {
        add_squares(x.as<T>() + t * channels + begin, count, energies + begin);
      }
      for (std::int64_t i = begin; i < begin + count; ++i) energies[i] *= growth;
    }
  });
  const int bits = 62 - headroom_bits;
  // Entry (i, i) is scaled by 2^(2 e): the largest e with energy * 2^(2 e) <= 2^bits.
  fill_exponents(
      energies, channels, [bits](double energy) { return (bits - power_above(energy)) >> 1; },
      exponents.as<std::int32_t>());
}

void CpuStatisticsOps::do_accumulate_gram(ConstTensorView x, std::int64_t total_tokens,
                                          const GramView& gram) {
  expect_activation("accumulate_gram", {{"x", x}});
  const std::int64_t channels = x.shape[1];
  tiles_.reserve(kTile * kTile * static_cast<std::int64_t>(dtype_bytes(x.dtype)));
  channels_.reserve(channels * static_cast<std::int64_t>(sizeof(double)));
  auto* scales = channels_.of_thread<double>(0);
  for (std::int64_t i = 0; i < channels; ++i) {
    scales[i] = std::ldexp(1.0, gram.exponents.as<std::int32_t>()[i]);
  }
  const GramTask task{x, scales, total_tokens, gram.sums.as<std::int64_t>()};
  const std::int64_t across = (channels + kTile - 1) / kTile;
  std::int64_t refused = 0;
  with_activation(x.dtype, [&]<typename T>(T) {
#pragma omp parallel for num_threads(threads_) schedule(dynamic) reduction(+ : refused)
    for (std::int64_t index = 0; index < across * (across + 1) / 2; ++index) {
      refused += accumulate_tile(task, gram_tile(index, channels),
                                 tiles_.of_thread<T>(omp_get_thread_num()));
    }
  });
  *gram.overflow.as<std::int64_t>() += refused;
}

void read_gram_diagonal(const GramView& gram, double* out) {
  const std::int64_t channels = gram.sums.shape[0];
  for (std::int64_t k = 0; k < channels; ++k) {
    const double scale = std::ldexp(1.0, -gram.exponents.as<std::int32_t>()[k]);
    const auto fixed = static_cast<double>(gram.sums.as<std::int64_t>()[k * channels + k]);
    out[k] = fixed * scale * scale;
  }
}

void CpuStatisticsOps::do_gram_diagonal(const GramView& gram, TensorView out) {
  read_gram_diagonal(gram, out.as<double>());
}

}  // namespace quern
