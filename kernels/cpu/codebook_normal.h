#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace quern {

/// The least squares problem of the tables of kLanes rows: A = P^T H P with P [K, count] the
/// one-hot codes of a row, outliers having none.
class NormalMatrices {
 public:
  /// h [K, K] symmetric, must outlive the object.
  NormalMatrices(const double* h, std::int64_t columns, int count);

  /// Elements from one row of bins to the next: K, and as many as whole panels need.
  std::int64_t bin_stride() const noexcept { return bin_stride_; }
  /// The bin of an outlier.
  std::uint16_t no_bin() const noexcept { return static_cast<std::uint16_t>(count_); }

  /// Forms A of `rows` rows from bins [rows, bin_stride]: codes, no_bin() at outliers and padding.
  void form(const std::uint16_t* bins, std::int64_t rows);

  /// pull = A^-1 pull of one row, with a trace of ridge; centroids that no error depends on
  /// get 0.
  void solve(std::int64_t row, std::span<double> pull);

 private:
  void pack(std::int64_t first_row, std::int64_t rows, std::int64_t first_column);
  void add_panel(const std::uint16_t* bins, std::int64_t rows, std::int64_t first_row,
                 std::int64_t panel_rows, std::int64_t first_column);

  const double* h_;
  std::int64_t columns_;
  std::int64_t bin_stride_;
  std::int64_t count_;
  std::vector<double> panel_;   // rows of H, kBinWidth columns
  std::vector<double> sums_;    // [count + 1, kBinWidth]
  std::vector<double> halves_;  // [kLanes, count, count + 1]: A is this plus its transpose
  std::vector<double> matrix_;  // [count, count]
};

}  // namespace quern
