#include "kernels/cpu/codebook_tile.h"

#include <cblas.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/codebook_kernels.h"
#include "kernels/cpu/convert.h"

namespace quern {
namespace {

constexpr std::int64_t kBlock = 128;  // columns whose changes reach the others in one product
constexpr auto kStride = static_cast<std::size_t>(kLanes);

blasint blas(std::int64_t value) {
  return static_cast<blasint>(value);
}

std::size_t index(std::int64_t column, std::int64_t lane) {
  return static_cast<std::size_t>(column * kLanes + lane);
}

}  // namespace

RefineTile::RefineTile(const RefineProblem& problem)
    : problem_(problem),
      columns_(problem.weight.shape[1]),
      count_(1 << problem.spec.bits),
      exactly_(has_short_weights(problem.weight)),
      changes_(static_cast<std::size_t>(kBlock * kLanes)),
      values_(index(count_, 0)),
      bounds_(index(count_ - 1, 0)),
      row_(static_cast<std::size_t>(columns_)),
      normal_(problem.h, columns_, count_) {
  for (auto* tile : {&weights_, &errors_, &gradient_, &old_errors_, &old_gradient_}) {
    tile->resize(index(columns_, 0));
  }
  codes_.resize(index(columns_, 0));
  exact_.resize(index(columns_, 0));
  bins_.resize(static_cast<std::size_t>(kLanes * normal_.bin_stride()));
}

void RefineTile::set_table(const float* table, std::int64_t lane) {
  for (std::int64_t c = 0; c < count_; ++c) {
    values_[index(c, lane)] = table[c];
    if (c == 0) continue;
    const double below = values_[index(c - 1, lane)];
    const double value = values_[index(c, lane)];
    bounds_[index(c - 1, lane)] =
        below == value ? std::numeric_limits<double>::infinity() : 0.5 * (below + value);
  }
}

std::uint8_t RefineTile::nearest(double target, std::int64_t lane) const {
  int code = 0;
  for (std::int64_t c = 0; c + 1 < count_; ++c) code += target > bounds_[index(c, lane)] ? 1 : 0;
  return static_cast<std::uint8_t>(code);
}

double RefineTile::value_of(std::size_t at, std::int64_t lane) const {
  return values_[index(codes_[at], lane)];
}

/// Table, codes and mask of a row.
void RefineTile::load_lane(const CodebookRow& row, std::int64_t lane) {
  set_table(row.table.data(), lane);
  for (std::size_t k = 0; k < row_.size(); ++k) {
    const std::size_t at = k * kStride + static_cast<std::size_t>(lane);
    codes_[at] = row.codes[k];
    exact_[at] = row.mask[k];
  }
}

void RefineTile::load(CodebookState& from, std::int64_t first_row) {
  first_row_ = first_row;
  rows_ = std::min(kLanes, problem_.weight.shape[0] - first_row);
  std::fill(weights_.begin(), weights_.end(), 0.0);
  std::fill(exact_.begin(), exact_.end(), std::uint8_t{1});
  std::fill(errors_.begin(), errors_.end(), 0.0);
  for (std::int64_t lane = 0; lane < rows_; ++lane) {
    load_lane(row_of(from, first_row + lane), lane);
    load_elems(problem_.weight, (first_row + lane) * columns_, columns_, row_.data());
    for (std::size_t k = 0; k < row_.size(); ++k) {
      const std::size_t at = k * kStride + static_cast<std::size_t>(lane);
      weights_[at] = row_[k];
      errors_[at] = exact_[at] != 0 ? 0.0 : weights_[at] - value_of(at, lane);
    }
  }
}

void RefineTile::store_lane(const CodebookRow& row, std::int64_t lane) const {
  for (std::int64_t c = 0; c < count_; ++c) {
    row.table[static_cast<std::size_t>(c)] = static_cast<float>(values_[index(c, lane)]);
  }
  const std::uint8_t zero = zero_code(row.table.data(), count_);
  for (std::size_t k = 0; k < row_.size(); ++k) {
    const std::size_t at = k * kStride + static_cast<std::size_t>(lane);
    row.mask[k] = exact_[at];
    row.codes[k] = exact_[at] != 0 ? zero : codes_[at];
  }
}

void RefineTile::multiply_errors() {
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, blas(columns_), blas(kLanes),
              blas(columns_), 1.0, problem_.h, blas(columns_), errors_.data(), blas(kLanes), 0.0,
              gradient_.data(), blas(kLanes));
}

RefineTile::LaneSums RefineTile::quadratic_forms() const {
  LaneSums sums{};
  for (std::int64_t k = 0; k < columns_; ++k) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      sums[static_cast<std::size_t>(lane)] += errors_[index(k, lane)] * gradient_[index(k, lane)];
    }
  }
  return sums;
}

/// An outlier that the new table cannot express becomes an ordinary weight.
void RefineTile::release_unfit_outliers(std::int64_t lane, float centroid) {
  for (std::int64_t k = 0; k < columns_; ++k) {
    const std::size_t at = index(k, lane);
    if (exact_[at] == 0) continue;
    if (outlier_value(static_cast<float>(weights_[at]), centroid, exactly_)) continue;
    exact_[at] = 0;
    codes_[at] = nearest(weights_[at], lane);
  }
}

/// c + A^-1 P^T H e is the table of least e H e for the codes.
void RefineTile::fit_table(std::int64_t lane) {
  const auto count = static_cast<std::size_t>(count_);
  std::vector<double> centroids(count);
  std::optional<float> largest;
  for (std::int64_t k = 0; k < columns_; ++k) {
    const std::size_t at = index(k, lane);
    if (exact_[at] == 0) centroids[codes_[at]] += gradient_[at];
    if (exact_[at] != 0) {
      largest = std::max(largest.value_or(0.0F), std::fabs(static_cast<float>(weights_[at])));
    }
  }
  normal_.solve(lane, centroids);
  for (std::int64_t c = 0; c < count_; ++c) {
    centroids[static_cast<std::size_t>(c)] += values_[index(c, lane)];
  }
  std::vector<float> table(count);
  std::vector<std::uint8_t> places(count);
  finish_table(centroids, {problem_.spec.table_dtype, count_, largest}, table.data(),
               places.data());
  set_table(table.data(), lane);
  for (std::int64_t k = 0; k < columns_; ++k) {
    codes_[index(k, lane)] = places[codes_[index(k, lane)]];
  }
  if (largest) release_unfit_outliers(lane, table[zero_code(table.data(), count_)]);
  for (std::int64_t k = 0; k < columns_; ++k) {
    const std::size_t at = index(k, lane);
    errors_[at] = exact_[at] != 0 ? 0.0 : weights_[at] - value_of(at, lane);
  }
}

void RefineTile::fit_tables() {
  std::fill(bins_.begin(), bins_.end(), normal_.no_bin());
  for (std::int64_t lane = 0; lane < rows_; ++lane) {
    std::uint16_t* bins = bins_.data() + lane * normal_.bin_stride();
    for (std::int64_t k = 0; k < columns_; ++k) {
      if (exact_[index(k, lane)] == 0) bins[k] = codes_[index(k, lane)];
    }
  }
  normal_.form(bins_.data(), rows_);
  for (std::int64_t lane = 0; lane < rows_; ++lane) fit_table(lane);
}

/// Rows that rounding their new table made worse go back to the old one.
void RefineTile::restore_worse(CodebookState& from, const LaneSums& before) {
  const LaneSums after = quadratic_forms();
  for (std::int64_t lane = 0; lane < rows_; ++lane) {
    const auto i = static_cast<std::size_t>(lane);
    if (after[i] <= before[i]) continue;
    load_lane(row_of(from, first_row_ + lane), lane);
    for (std::int64_t k = 0; k < columns_; ++k) {
      errors_[index(k, lane)] = old_errors_[index(k, lane)];
      gradient_[index(k, lane)] = old_gradient_[index(k, lane)];
    }
  }
}

/// Columns [begin, end) in order, each seeing the changes of those before it.
bool RefineTile::descend_block(std::int64_t begin, std::int64_t end) {
  alignas(64) std::array<double, kStride> column;
  const LaneTables tables{values_.data(), bounds_.data(), count_};
  bool moved = false;
  for (std::int64_t j = begin; j < end; ++j) {
    const double* h = problem_.h + j * columns_;
    double* change = changes_.data() + (j - begin) * kLanes;
    std::fill_n(change, kLanes, 0.0);
    if (!(h[j] > 0.0)) continue;
    std::copy_n(gradient_.data() + j * kLanes, kLanes, column.data());
    add_feedback(h + begin, j - begin, changes_.data(), column.data());
    moved |= descend_column(
        tables,
        {weights_.data() + j * kLanes, column.data(), exact_.data() + j * kLanes, 1.0 / h[j]},
        errors_.data() + j * kLanes, change, codes_.data() + j * kLanes);
  }
  return moved;
}

bool RefineTile::sweep() {
  bool moved = false;
  for (std::int64_t begin = 0; begin < columns_; begin += kBlock) {
    const std::int64_t end = std::min(begin + kBlock, columns_);
    if (!descend_block(begin, end)) continue;
    moved = true;
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, blas(columns_), blas(kLanes),
                blas(end - begin), 1.0, problem_.h + begin * columns_, blas(columns_),
                changes_.data(), blas(kLanes), 1.0, gradient_.data(), blas(kLanes));
  }
  return moved;
}

bool RefineTile::improve(CodebookState& from, CodebookState& to, std::int64_t first_row,
                         double* errors) {
  load(from, first_row);
  multiply_errors();
  const LaneSums before = quadratic_forms();
  old_errors_ = errors_;
  old_gradient_ = gradient_;
  fit_tables();
  multiply_errors();
  restore_worse(from, before);
  for (int sweeps = 0; sweeps < problem_.sweeps && sweep(); ++sweeps) {
  }
  const LaneSums after = quadratic_forms();
  bool better = false;
  for (std::int64_t lane = 0; lane < rows_; ++lane) {
    const auto i = static_cast<std::size_t>(lane);
    const std::int64_t n = first_row + lane;
    errors[n] = std::min(before[i], after[i]);
    if (after[i] < before[i]) {
      store_lane(row_of(to, n), lane);
      better = true;
    } else {
      copy_row(from, to, n);
    }
  }
  return better;
}

void RefineTile::find_gains(CodebookState& from, CodebookState& to, std::int64_t first_row,
                            const double* row_scale, float* gains) {
  load(from, first_row);
  multiply_errors();
  for (std::int64_t lane = 0; lane < rows_; ++lane) {
    const std::int64_t n = first_row + lane;
    copy_row(from, to, n);
    const CodebookRow row = row_of(to, n);
    for (std::int64_t k = 0; k < columns_; ++k) {
      const std::size_t at = index(k, lane);
      const double h = problem_.h[k * columns_ + k];
      double gain = 2.0 * errors_[at] * gradient_[at] - h * errors_[at] * errors_[at];
      if (exact_[at] != 0 && h > 0.0) {
        const std::uint8_t code = nearest(weights_[at] + gradient_[at] / h, lane);
        const double error = weights_[at] - values_[index(code, lane)];
        row.codes[static_cast<std::size_t>(k)] = code;
        gain = 2.0 * error * gradient_[at] + h * error * error;
      }
      gains[n * columns_ + k] = static_cast<float>(std::clamp(gain * row_scale[n], 0.0, 1e38));
    }
  }
}

}  // namespace quern
