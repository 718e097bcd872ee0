#include "kernels/cpu/factorise.h"

#include <cblas.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "kernels/cpu/statistics_ops.h"
#include "kernels/solver_setup.h"

namespace quern {
namespace {

constexpr std::int64_t kPanel = 128;  // columns eliminated at once
constexpr std::int64_t kTile = 256;   // rows and columns of one trailing product

blasint blas(std::int64_t value) {
  return static_cast<blasint>(value);
}

/// R of the diagonal block at `block`, in place, last column first. limits[j]: least pivot.
bool factor_diagonal(double* block, std::int64_t stride, std::int64_t columns,
                     const double* limits) {
  std::vector<double> column(static_cast<std::size_t>(columns));
  for (std::int64_t j = columns - 1; j >= 0; --j) {
    const double pivot = block[j * stride + j];
    if (!(pivot > limits[j]) || !std::isfinite(pivot)) return false;
    const double root = std::sqrt(pivot);
    block[j * stride + j] = root;
    for (std::int64_t i = 0; i < j; ++i) {
      column[static_cast<std::size_t>(i)] = block[i * stride + j] /= root;
    }
    for (std::int64_t i = 0; i < j; ++i) {
      const double factor = column[static_cast<std::size_t>(i)];
      double* row = block + i * stride;
      for (std::int64_t k = i; k < j; ++k) row[k] -= factor * column[static_cast<std::size_t>(k)];
    }
  }
  return true;
}

/// The rows above a factorised panel [begin, begin + width), then the matrix they leave behind.
void eliminate_panel(double* h, std::int64_t stride, std::int64_t begin, std::int64_t width,
                     int threads) {
  const std::int64_t tiles = (begin + kTile - 1) / kTile;
  const double* corner = h + begin * stride + begin;
  const auto tile_rows = [begin](std::int64_t tile) {
    return std::min(kTile, begin - tile * kTile);
  };
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (std::int64_t i = 0; i < tiles; ++i) {
    cblas_dtrsm(CblasRowMajor, CblasRight, CblasUpper, CblasTrans, CblasNonUnit, blas(tile_rows(i)),
                blas(width), 1.0, corner, blas(stride), h + i * kTile * stride + begin,
                blas(stride));
  }
#pragma omp parallel for schedule(dynamic) num_threads(threads) collapse(2)
  for (std::int64_t i = 0; i < tiles; ++i) {
    for (std::int64_t j = 0; j < tiles; ++j) {
      if (j < i) continue;
      cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, blas(tile_rows(i)), blas(tile_rows(j)),
                  blas(width), -1.0, h + i * kTile * stride + begin, blas(stride),
                  h + j * kTile * stride + begin, blas(stride), 1.0,
                  h + i * kTile * stride + j * kTile, blas(stride));
    }
  }
}

/// H as the solve needs it.
struct Spectrum {
  std::vector<double> scale;     ///< 2^-exponent of each channel
  std::vector<double> diagonal;  ///< checkpoint order
  DiagonalSummary summary;
};

Spectrum read_spectrum(const HessianTask& task) {
  const GramView& gram = task.gram;
  Spectrum spectrum;
  spectrum.diagonal.resize(static_cast<std::size_t>(gram.sums.shape[0]));
  read_gram_diagonal(gram, spectrum.diagonal.data());
  spectrum.summary =
      summarise_diagonal(task, spectrum.diagonal, gram.overflow.as<std::int64_t>()[0]);
  const std::span exponents(gram.exponents.as<std::int32_t>(), spectrum.diagonal.size());
  for (const std::int32_t exponent : exponents) {
    spectrum.scale.push_back(std::ldexp(1.0, -exponent));
  }
  return spectrum;
}

/// h = the upper triangle of H in solve order. A channel whose diagonal is zero is cut off from the
/// others and gets `mean`, which only keeps the factor finite.
void permuted_hessian(const GramView& gram, const Spectrum& spectrum, const std::int32_t* order,
                      double* h) {
  const std::int64_t columns = gram.sums.shape[0];
  const std::int64_t* sums = gram.sums.as<std::int64_t>();
  for (std::int64_t i = 0; i < columns; ++i) {
    const auto row = static_cast<std::size_t>(order[i]);
    for (std::int64_t j = i; j < columns; ++j) {
      const auto column = static_cast<std::size_t>(order[j]);
      const std::int64_t low = std::min(order[i], order[j]);
      const std::int64_t high = std::max(order[i], order[j]);
      const bool dead = spectrum.diagonal[row] == 0.0 || spectrum.diagonal[column] == 0.0;
      const double live = static_cast<double>(sums[low * columns + high]) * spectrum.scale[row] *
                          spectrum.scale[column];
      h[i * columns + j] = dead ? (i == j ? spectrum.summary.mean : 0.0) : live;
    }
  }
}

/// R to S_ij = R_ij / R_jj, and weight_j = R_jj^2.
void normalise(double* r, std::int64_t columns, double* weight) {
  std::vector<double> diagonal(static_cast<std::size_t>(columns));
  for (std::int64_t j = 0; j < columns; ++j) {
    diagonal[static_cast<std::size_t>(j)] = r[j * columns + j];
    weight[j] = r[j * columns + j] * r[j * columns + j];
  }
  for (std::int64_t i = 0; i < columns; ++i) {
    for (std::int64_t j = i; j < columns; ++j) {
      r[i * columns + j] /= diagonal[static_cast<std::size_t>(j)];
    }
  }
}

}  // namespace

bool reversed_cholesky(double* h, std::int64_t columns, int threads) {
  // Below this a pivot is the rounding error of the eliminations that led to it.
  std::vector<double> limits(static_cast<std::size_t>(columns));
  const double relative = static_cast<double>(columns) * std::numeric_limits<double>::epsilon();
  for (std::int64_t j = 0; j < columns; ++j) {
    limits[static_cast<std::size_t>(j)] = relative * h[j * columns + j];
  }
  for (std::int64_t end = columns; end > 0;) {
    const std::int64_t begin = (end - 1) / kPanel * kPanel;
    if (!factor_diagonal(h + begin * columns + begin, columns, end - begin,
                         limits.data() + begin)) {
      return false;
    }
    eliminate_panel(h, columns, begin, end - begin, threads);
    end = begin;
  }
  for (std::int64_t i = 1; i < columns; ++i) std::fill_n(h + i * columns, i, 0.0);
  return true;
}

HessianFactor factorise_gram(Memory& memory, const HessianTask& task, int threads) {
  const std::int64_t columns = task.gram.sums.shape[0];
  const Spectrum spectrum = read_spectrum(task);
  HessianFactor factor{memory.allocate(DType::f64, {columns, columns}),
                       memory.allocate(DType::f64, {columns}),
                       memory.allocate(DType::i32, {columns}),
                       memory.allocate(DType::f64, {columns}),
                       task.order,
                       task.damping.fraction,
                       spectrum.summary.dead};
  std::copy(spectrum.diagonal.begin(), spectrum.diagonal.end(),
            factor.diagonal.view().as<double>());
  const auto columns_in_order = solve_order(spectrum.diagonal, task.order, task.group_size);
  auto* order_out = factor.order.view().as<std::int32_t>();
  std::copy(columns_in_order.begin(), columns_in_order.end(), order_out);

  auto* h = factor.feedback.view().as<double>();
  const auto suffices = [&](double fraction) {
    permuted_hessian(task.gram, spectrum, order_out, h);
    for (std::int64_t k = 0; k < columns; ++k) {
      h[k * columns + k] += fraction * spectrum.summary.mean;
    }
    return reversed_cholesky(h, columns, threads);
  };
  while (!suffices(factor.damping_fraction)) {
    factor.damping_fraction = next_damping(task, factor.damping_fraction);
  }
  normalise(h, columns, factor.weight.view().as<double>());
  return factor;
}

}  // namespace quern
