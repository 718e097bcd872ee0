#include "kernels/cpu/quadratic_error.h"

#include <cblas.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/scratch.h"

namespace quern {
namespace {

constexpr std::int64_t kRows = 64;    // rows of W, and as many of W - Q, in one product
constexpr std::int64_t kPanel = 256;  // columns of H in one product

blasint blas(std::int64_t value) {
  return static_cast<blasint>(value);
}

/// U with x H x^T = x U x^T: the upper triangle with doubled off-diagonals, zeros below.
void fold_gram(const GramView& gram, double* upper, int threads) {
  const std::int64_t columns = gram.sums.shape[0];
  const auto* sums = gram.sums.as<std::int64_t>();
  std::vector<double> scales(static_cast<std::size_t>(columns));
  for (std::int64_t k = 0; k < columns; ++k) {
    scales[static_cast<std::size_t>(k)] = std::ldexp(1.0, -gram.exponents.as<std::int32_t>()[k]);
  }
#pragma omp parallel for schedule(static, 16) num_threads(threads)
  for (std::int64_t i = 0; i < columns; ++i) {
    double* row = upper + i * columns;
    const double scale = scales[static_cast<std::size_t>(i)];
    std::fill_n(row, i, 0.0);
    for (std::int64_t j = i; j < columns; ++j) {
      row[j] = static_cast<double>(sums[i * columns + j]) * scale *
               (scales[static_cast<std::size_t>(j)] * 2.0);
    }
    row[i] *= 0.5;
  }
}

/// result[2 n] = x_n U x_n^T, x [rows, columns]; product [rows, kPanel] is working space.
void quadratic_form(const double* x, std::int64_t rows, const double* upper, std::int64_t columns,
                    double* product, double* result) {
  for (std::int64_t row = 0; row < rows; ++row) result[2 * row] = 0.0;
  for (std::int64_t begin = 0; begin < columns; begin += kPanel) {
    const std::int64_t width = std::min(kPanel, columns - begin);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, blas(rows), blas(width),
                blas(begin + width), 1.0, x, blas(columns), upper + begin, blas(columns), 0.0,
                product, blas(kPanel));
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t j = 0; j < width; ++j) {
        result[2 * row] += product[row * kPanel + j] * x[row * columns + begin + j];
      }
    }
  }
}

}  // namespace

void quadratic_error_of_rows(Memory& memory, const QuadraticErrorInput& input, double* result) {
  const std::int64_t rows = input.weight.shape[0];
  const std::int64_t columns = input.weight.shape[1];
  Tensor folded = memory.allocate(DType::f64, {columns, columns});
  auto* upper = folded.view().as<double>();
  fold_gram(input.gram, upper, input.threads);
  const std::int64_t tiles = (rows + kRows - 1) / kRows;
  Scratch scratch(memory, input.threads);
  scratch.reserve((2 * kRows * columns + kRows * kPanel) *
                  static_cast<std::int64_t>(sizeof(double)));
#pragma omp parallel for schedule(dynamic) num_threads(input.threads)
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    const std::int64_t count = std::min(kRows, rows - tile * kRows);
    auto* weights = scratch.of_thread<double>(omp_get_thread_num());
    double* differences = weights + kRows * columns;
    double* product = differences + kRows * columns;
    const auto load = [&](const ConstTensorView& in, double* out) {
      const ConstTensorView from = in.rows(tile * kRows, count);
      convert_elems(from, {reinterpret_cast<std::byte*>(out), DType::f64, from.shape}, 0,
                    from.elems());
    };
    load(input.weight, weights);
    load(input.quantized, differences);
    for (std::int64_t i = 0; i < count * columns; ++i) differences[i] = weights[i] - differences[i];
    double* out = result + 2 * tile * kRows;
    quadratic_form(differences, count, upper, columns, product, out);
    quadratic_form(weights, count, upper, columns, product, out + 1);
  }
}

}  // namespace quern
