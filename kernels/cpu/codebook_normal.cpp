#include "kernels/cpu/codebook_normal.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/codebook_kernels.h"

namespace quern {
namespace {

constexpr std::int64_t kPanelRows = 512;  // a panel stays in the second level of cache
constexpr double kRidge = 1e-9;           // of each diagonal entry
constexpr double kLeastPivot = 1e-12;     // of the diagonal entry: below is rounding

std::int64_t round_up(std::int64_t value, std::int64_t step) {
  return (value + step - 1) / step * step;
}

}  // namespace

NormalMatrices::NormalMatrices(const double* h, std::int64_t columns, int count)
    : h_(h),
      columns_(columns),
      bin_stride_(round_up(columns, kBinWidth)),
      count_(count),
      panel_(static_cast<std::size_t>(kPanelRows * kBinWidth)),
      sums_(static_cast<std::size_t>((count_ + 1) * kBinWidth)),
      halves_(static_cast<std::size_t>(kLanes * count_ * (count_ + 1))),
      matrix_(static_cast<std::size_t>(count_ * count_)) {}

/// Packed, because the rows of a wide H fall into the same few sets of a cache.
void NormalMatrices::pack(std::int64_t first_row, std::int64_t rows, std::int64_t first_column) {
  const std::int64_t width = std::min(kBinWidth, columns_ - first_column);
  const bool diagonal = first_row == first_column;
  for (std::int64_t i = 0; i < rows; ++i) {
    const double* from = h_ + (first_row + i) * columns_ + first_column;
    double* to = panel_.data() + i * kBinWidth;
    for (std::int64_t k = 0; k < width; ++k) to[k] = diagonal ? 0.5 * from[k] : from[k];
    std::fill(to + width, to + kBinWidth, 0.0);
  }
}

void NormalMatrices::add_panel(const std::uint16_t* bins, std::int64_t rows, std::int64_t first_row,
                               std::int64_t panel_rows, std::int64_t first_column) {
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::uint16_t* own = bins + row * bin_stride_;
    std::fill(sums_.begin(), sums_.end(), 0.0);
    add_rows_to_bins(panel_.data(), own + first_row, panel_rows, sums_.data());
    const std::uint16_t* column_bins = own + first_column;
    for (std::int64_t a = 0; a < count_; ++a) {
      double* half = halves_.data() + (row * count_ + a) * (count_ + 1);
      const double* sum = sums_.data() + a * kBinWidth;
      for (std::int64_t k = 0; k < kBinWidth; ++k) half[column_bins[k]] += sum[k];
    }
  }
}

void NormalMatrices::form(const std::uint16_t* bins, std::int64_t rows) {
  std::fill(halves_.begin(), halves_.end(), 0.0);
  for (std::int64_t column = 0; column < columns_; column += kBinWidth) {
    for (std::int64_t begin = 0; begin < column; begin += kPanelRows) {
      const std::int64_t count = std::min(kPanelRows, column - begin);
      pack(begin, count, column);
      add_panel(bins, rows, begin, count, column);
    }
    const std::int64_t count = std::min(kBinWidth, columns_ - column);
    pack(column, count, column);
    add_panel(bins, rows, column, count, column);
  }
}

void NormalMatrices::solve(std::int64_t row, std::span<double> pull) {
  const auto n = pull.size();
  const double* half = halves_.data() + row * count_ * (count_ + 1);
  const auto at = [n](std::size_t i, std::size_t j) { return i * n + j; };
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < n; ++j) {
      matrix_[at(i, j)] = half[i * (n + 1) + j] + half[j * (n + 1) + i];
    }
  }
  // L of A + ridge in the lower triangle; a pivot of 0 marks a centroid that stays.
  for (std::size_t j = 0; j < n; ++j) {
    const double diagonal = matrix_[at(j, j)];
    double pivot = diagonal * (1.0 + kRidge);
    for (std::size_t k = 0; k < j; ++k) pivot -= matrix_[at(j, k)] * matrix_[at(j, k)];
    const bool sound = diagonal > 0.0 && pivot > kLeastPivot * diagonal;
    const double root = sound ? std::sqrt(pivot) : 0.0;
    for (std::size_t i = j + 1; i < n; ++i) {
      double sum = matrix_[at(i, j)];
      for (std::size_t k = 0; k < j; ++k) sum -= matrix_[at(i, k)] * matrix_[at(j, k)];
      matrix_[at(i, j)] = sound ? sum / root : 0.0;
    }
    matrix_[at(j, j)] = root;
  }
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t k = 0; k < i; ++k) pull[i] -= matrix_[at(i, k)] * pull[k];
    pull[i] = matrix_[at(i, i)] > 0.0 ? pull[i] / matrix_[at(i, i)] : 0.0;
  }
  for (std::size_t i = n; i-- > 0;) {
    for (std::size_t k = i + 1; k < n; ++k) pull[i] -= matrix_[at(k, i)] * pull[k];
    pull[i] = matrix_[at(i, i)] > 0.0 ? pull[i] / matrix_[at(i, i)] : 0.0;
  }
}

}  // namespace quern
