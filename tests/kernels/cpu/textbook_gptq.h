#pragma once

#include <cstdint>
#include <vector>

#include "kernels/solver.h"

namespace quern::test {

/// A dense row-major matrix of doubles.
struct Matrix {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::vector<double> values;

  Matrix() = default;
  Matrix(std::int64_t row_count, std::int64_t column_count)
      : rows(row_count),
        columns(column_count),
        values(static_cast<std::size_t>(row_count * column_count)) {}
  double& operator()(std::int64_t i, std::int64_t j) {
    return values[static_cast<std::size_t>(i * columns + j)];
  }
  double operator()(std::int64_t i, std::int64_t j) const {
    return values[static_cast<std::size_t>(i * columns + j)];
  }
};

/// What GPTQ yields, checkpoint order.
struct TextbookResult {
  Matrix codes;   ///< [N, K]
  Matrix scales;  ///< [G, N]
  Matrix zeros;   ///< [G, N]
  std::vector<std::int64_t> group_of;
  std::vector<int> tied;  ///< [N] codes so close to a tie that rounding errors may decide them
};

/// Nearest float16 value, ties to even, by the definition of the format; 0 becomes 2^-24.
double nearest_f16(double value);

/// The order of the solve, written down from the definition.
std::vector<std::int64_t> textbook_order(const Matrix& h, ActOrder order, std::int64_t group_size);

/// H in solve order with damping; a channel with H_kk = 0 is cut off and gets the mean.
Matrix damped_hessian(const Matrix& h, const std::vector<std::int64_t>& order, double fraction);

/// GPTQ as published, in plain loops: inverse of the damped H, Cholesky factor of the inverse,
/// column by column with an update of all weights not yet rounded. absmax scales only.
TextbookResult textbook_gptq(const Matrix& weight, const Matrix& h, ActOrder order,
                             const GridSpec& grid, double damping);

}  // namespace quern::test
