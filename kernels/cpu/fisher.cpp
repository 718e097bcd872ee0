#include <omp.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu/blas.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/exponents.h"
#include "kernels/cpu/gradient_rows.h"
#include "kernels/cpu/row_kernels.h"
#include "kernels/cpu/statistics_ops.h"
#include "kernels/cpu/tiles.h"
#include "kernels/cpu/vector_math.h"

namespace quern {
namespace {

constexpr std::int64_t kTile = 256;
constexpr double kMostOfSequence = 0x1p62;
constexpr auto kDoubleBytes = static_cast<std::int64_t>(sizeof(double));

/// A micro-batch whose gradients dy^T x are formed sequence by sequence and tile by tile.
struct GradientSource {
  ConstTensorView x;
  ConstTensorView dy;
  std::int64_t sequence_length;

  std::int64_t sequences() const { return x.shape[0] / sequence_length; }
  Tiling tiling() const { return {dy.shape[1], x.shape[1], kTile}; }

  /// gradient [tile.rows, tile.columns] of one sequence
  template <typename T>
  void form(std::int64_t sequence, const Tile& tile, T* gradient) const {
    const std::int64_t row = sequence * sequence_length;
    multiply({tile.rows, tile.columns, sequence_length},
             {dy.as<T>() + row * dy.shape[1] + tile.row, dy.shape[1], true},
             {x.as<T>() + row * x.shape[1] + tile.column, x.shape[1]}, gradient, tile.columns);
  }
  std::int64_t tile_bytes() const {
    return kTile * kTile * static_cast<std::int64_t>(dtype_bytes(x.dtype));
  }
};

/// largest[i] = the largest entry of row i of the tile's sum of squared gradients.
template <typename T>
void largest_of_tile(const GradientSource& source, const Tile& tile, double* squares,
                     double* largest) {
  auto* gradient = reinterpret_cast<T*>(squares + kTile * kTile);
  const std::int64_t elems = tile.rows * tile.columns;
  std::fill_n(squares, elems, 0.0);
  for (std::int64_t sequence = 0; sequence < source.sequences(); ++sequence) {
    source.form(sequence, tile, gradient);
    add_squares(gradient, elems, squares);
  }
  for (std::int64_t i = 0; i < tile.rows; ++i) {
    largest[i] = largest_square(squares + i * tile.columns, tile.columns);
  }
}

/// Entries of a row that add_fixed_point_squares() left out.
struct Burst {
  std::int64_t largest = 0;
  std::int64_t refused = 0;
};

template <typename T>
Burst add_burst(const T* gradients, const FixedPointSquares& format, std::int64_t n,
                std::int64_t* sums) {
  Burst burst;
  for (std::int64_t i = 0; i < n; ++i) {
    const auto gradient = static_cast<double>(gradients[i]);
    const double scaled = gradient * gradient * format.scale;
    if (scaled < format.limit) continue;
    const bool fits = scaled < kMostOfSequence;
    const std::int64_t value = fits ? std::llrint(scaled) : 0;
    burst.refused += fits ? 0 : 1;
    sums[i] = wrapping_sum(sums[i], value);
    burst.largest = std::max(burst.largest, value);
  }
  return burst;
}

/// The largest bursts of rows, [sequences, N]; tiles of a row meet here.
class RowBursts {
 public:
  RowBursts(std::int64_t sequences, std::int64_t rows)
      : rows_(rows), largest_(static_cast<std::size_t>(sequences * rows)) {}

  void meet(std::int64_t sequence, std::int64_t row, std::int64_t value) {
    std::int64_t& largest = largest_[static_cast<std::size_t>(sequence * rows_ + row)];
#pragma omp critical(quern_row_bursts)
    largest = std::max(largest, value);
  }
  /// sums [N]
  void add_to(std::int64_t* sums) const {
    for (std::size_t i = 0; i < largest_.size(); ++i) {
      if (largest_[i] == 0) continue;
      sums[static_cast<std::int64_t>(i) % rows_] +=
          largest_[i] / StatisticsOps::fisher_burst_unit + 1;
    }
  }

 private:
  std::int64_t rows_;
  std::vector<std::int64_t> largest_;
};

/// Where squares are added.
struct SquareSums {
  FisherView fisher;
  RowBursts& bursts;
  double limit;  ///< below it, entries of all sequences together never overflow
};

/// Adds every sequence's squares of one tile; returns how many entries were refused.
template <typename T>
std::int64_t accumulate_tile(const GradientSource& source, const SquareSums& out, const Tile& tile,
                             T* gradient) {
  const std::int64_t columns = source.x.shape[1];
  const auto* exponents = out.fisher.exponents.as<std::int32_t>() + tile.row;
  auto* sums = out.fisher.sums.as<std::int64_t>() + tile.row * columns + tile.column;
  std::int64_t refused = 0;
  for (std::int64_t sequence = 0; sequence < source.sequences(); ++sequence) {
    source.form(sequence, tile, gradient);
    for (std::int64_t i = 0; i < tile.rows; ++i) {
      const T* row = gradient + i * tile.columns;
      const FixedPointSquares format{std::ldexp(1.0, exponents[i]), out.limit};
      if (add_fixed_point_squares(row, format, tile.columns, sums + i * columns) == 0) continue;
      const Burst burst = add_burst(row, format, tile.columns, sums + i * columns);
      out.bursts.meet(sequence, tile.row + i, burst.largest);
      refused += burst.refused;
    }
  }
  return refused;
}

}  // namespace

void CpuStatisticsOps::do_choose_fisher_exponents(ConstTensorView x, ConstTensorView dy,
                                                  const SequenceCut& cut, int headroom_bits,
                                                  TensorView exponents) {
  expect_activation("choose_fisher_exponents", {{"x", x}, {"dy", dy}});
  const GradientSource source{x, dy, cut.sequence_length};
  const Tiling tiling = source.tiling();
  const std::int64_t rows = tiling.rows;
  tiles_.reserve(kTile * kTile * kDoubleBytes + source.tile_bytes());
  channels_.reserve(std::max<std::int64_t>(1, tiling.across()) * rows * kDoubleBytes);
  auto* largest = channels_.of_thread<double>(0);  // [tiles across, N]
  std::fill_n(largest, rows, 0.0);
  with_activation(x.dtype, [&]<typename T>(T) {
#pragma omp parallel for num_threads(threads_) schedule(dynamic) if (tiling.count() > 1)
    for (std::int64_t index = 0; index < tiling.count(); ++index) {
      const Tile tile = tiling.at(index);
      largest_of_tile<T>(source, tile, tiles_.of_thread<double>(omp_get_thread_num()),
                         largest + tile.column / kTile * rows + tile.row);
    }
  });
  const double growth = static_cast<double>(cut.total_sequences) /
                        static_cast<double>(std::max<std::int64_t>(1, source.sequences()));
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t across = 1; across < tiling.across(); ++across) {
      const double pair[] = {largest[i], largest[across * rows + i]};
      largest[i] = largest_square(pair, 2);
    }
    largest[i] *= growth;
  }
  const int bits = 62 - headroom_bits;
  fill_exponents(
      largest, rows, [bits](double value) { return bits - power_above(value); },
      exponents.as<std::int32_t>());
}

void CpuStatisticsOps::do_accumulate_fisher(ConstTensorView x, ConstTensorView dy,
                                            const SequenceCut& cut, const FisherView& fisher) {
  expect_activation("accumulate_fisher", {{"x", x}, {"dy", dy}});
  const GradientSource source{x, dy, cut.sequence_length};
  const Tiling tiling = source.tiling();
  const double limit = 0x1p62 / static_cast<double>(cut.total_sequences);
  tiles_.reserve(source.tile_bytes());
  RowBursts bursts(source.sequences(), dy.shape[1]);
  const SquareSums sums{fisher, bursts, limit};
  std::int64_t refused = 0;
  with_activation(x.dtype, [&]<typename T>(T) {
#pragma omp parallel for num_threads(threads_) schedule(dynamic) reduction(+ : refused)
    for (std::int64_t index = 0; index < tiling.count(); ++index) {
      refused += accumulate_tile(source, sums, tiling.at(index),
                                 tiles_.of_thread<T>(omp_get_thread_num()));
    }
  });
  auto* overflow = fisher.overflow.as<std::int64_t>();
  *overflow += refused;
  bursts.add_to(overflow + 1);
}

void CpuStatisticsOps::do_fisher_values(const FisherView& fisher, TensorView out) {
  const std::int64_t rows = out.shape[0];
  const std::int64_t columns = out.shape[1];
#pragma omp parallel for num_threads(threads_) schedule(static) if (out.elems() > kPiece)
  for (std::int64_t i = 0; i < rows; ++i) {
    values_of_row(fisher.sums.as<std::int64_t>() + i * columns,
                  std::ldexp(1.0, -fisher.exponents.as<std::int32_t>()[i]), columns,
                  out.as<float>() + i * columns);
  }
}

void CpuStatisticsOps::do_scale_by_gradient(ConstTensorView x, ConstTensorView dy, TensorView out) {
  expect_activation("scale_by_gradient", {{"x", x}, {"dy", dy}, {"out", out}});
  const std::int64_t tokens = x.shape[0];
  const std::int64_t width = x.shape[1];
  const std::int64_t outputs = dy.shape[1];
  with_activation(x.dtype, [&]<typename T>(T) {
#pragma omp parallel for num_threads(threads_) schedule(static) if (x.elems() > kPiece)
    for (std::int64_t t = 0; t < tokens; ++t) {
      const double mean =
          exact_sum_of_squares(dy.as<T>() + t * outputs, outputs) / static_cast<double>(outputs);
      scale_row(x.as<T>() + t * width, static_cast<T>(std::sqrt(mean)), width,
                out.as<T>() + t * width);
    }
  });
}

}  // namespace quern
