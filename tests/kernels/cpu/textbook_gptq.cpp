#include "tests/kernels/cpu/textbook_gptq.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

namespace quern::test {
namespace {

/// Gauss-Jordan elimination; the matrix is positive definite, so no pivoting is needed.
Matrix inverse(Matrix a) {
  const std::int64_t n = a.rows;
  for (std::int64_t p = 0; p < n; ++p) {
    const double pivot = 1.0 / a(p, p);
    a(p, p) = 1.0;
    for (std::int64_t j = 0; j < n; ++j) a(p, j) *= pivot;
    for (std::int64_t i = 0; i < n; ++i) {
      if (i == p) continue;
      const double factor = a(i, p);
      a(i, p) = 0.0;
      for (std::int64_t j = 0; j < n; ++j) a(i, j) -= factor * a(p, j);
    }
  }
  return a;
}

/// U with a = U^T U, row by row.
Matrix upper_cholesky(Matrix a) {
  const std::int64_t n = a.rows;
  for (std::int64_t p = 0; p < n; ++p) {
    if (!(a(p, p) > 0.0)) throw std::runtime_error("textbook: not positive definite");
    const double root = std::sqrt(a(p, p));
    for (std::int64_t j = p; j < n; ++j) a(p, j) /= root;
    for (std::int64_t i = p + 1; i < n; ++i) {
      for (std::int64_t j = i; j < n; ++j) a(i, j) -= a(p, i) * a(p, j);
    }
  }
  return a;
}

struct Grid {
  double scale;
  double zero;
};

Grid absmax_grid(const Matrix& weight, std::int64_t row, std::int64_t begin, std::int64_t end,
                 const GridSpec& spec) {
  const double top = std::ldexp(1.0, spec.bits) - 1.0;
  double low = 0.0;
  double high = 0.0;
  for (std::int64_t j = begin; j < end; ++j) {
    low = std::min(low, weight(row, j));
    high = std::max(high, weight(row, j));
  }
  if (spec.symmetric) {
    high = std::max(-low, high);
    low = -high;
  }
  if (low == high) {
    low = -1.0;
    high = 1.0;
  }
  const double scale = nearest_f16((high - low) / top);
  if (spec.symmetric) return {scale, std::ldexp(1.0, spec.bits - 1)};
  return {scale, std::clamp(std::nearbyint(-low / scale), 0.0, top)};
}

}  // namespace

double nearest_f16(double value) {
  const int exponent = value == 0.0 ? -14 : std::max(std::ilogb(value), -14);
  const double unit = std::ldexp(1.0, exponent - 10);
  return std::max(std::nearbyint(value / unit) * unit, std::ldexp(1.0, -24));
}

std::vector<std::int64_t> textbook_order(const Matrix& h, ActOrder order, std::int64_t group_size) {
  const std::int64_t size = group_size < 1 ? h.rows : group_size;
  std::vector<double> group_rank(static_cast<std::size_t>((h.rows + size - 1) / size), 0.0);
  for (std::int64_t k = 0; k < h.rows; ++k) {
    double& rank = group_rank[static_cast<std::size_t>(k / size)];
    rank = std::max(rank, h(k, k));
  }
  std::vector<std::int64_t> columns(static_cast<std::size_t>(h.rows));
  std::iota(columns.begin(), columns.end(), 0);
  if (order == ActOrder::none) return columns;
  std::sort(columns.begin(), columns.end(), [&](std::int64_t a, std::int64_t b) {
    if (order == ActOrder::group_aware && a / size != b / size) {
      const double rank_a = group_rank[static_cast<std::size_t>(a / size)];
      const double rank_b = group_rank[static_cast<std::size_t>(b / size)];
      return rank_a != rank_b ? rank_a > rank_b : a < b;
    }
    return h(a, a) != h(b, b) ? h(a, a) > h(b, b) : a < b;
  });
  return columns;
}

Matrix damped_hessian(const Matrix& h, const std::vector<std::int64_t>& order, double fraction) {
  double mean = 0.0;
  for (std::int64_t k = 0; k < h.rows; ++k) mean += h(k, k) / static_cast<double>(h.rows);
  Matrix damped(h.rows, h.rows);
  for (std::int64_t i = 0; i < h.rows; ++i) {
    for (std::int64_t j = 0; j < h.rows; ++j) {
      const std::int64_t a = order[static_cast<std::size_t>(i)];
      const std::int64_t b = order[static_cast<std::size_t>(j)];
      const bool dead = h(a, a) == 0.0 || h(b, b) == 0.0;
      damped(i, j) = dead ? (i == j ? mean : 0.0) : h(a, b);
      if (i == j) damped(i, j) += fraction * mean;
    }
  }
  return damped;
}

/// The columns of a matrix in another order.
static Matrix in_order(const Matrix& matrix, const std::vector<std::int64_t>& columns) {
  Matrix result(matrix.rows, matrix.columns);
  for (std::int64_t n = 0; n < matrix.rows; ++n) {
    for (std::int64_t j = 0; j < matrix.columns; ++j) {
      result(n, j) = matrix(n, columns[static_cast<std::size_t>(j)]);
    }
  }
  return result;
}

TextbookResult textbook_gptq(const Matrix& weight, const Matrix& h, ActOrder order,
                             const GridSpec& spec, double damping) {
  const std::int64_t columns = weight.columns;
  const std::int64_t size = spec.group_size < 1 ? columns : spec.group_size;
  const std::vector<std::int64_t> steps = textbook_order(h, order, spec.group_size);
  const Matrix u = upper_cholesky(inverse(damped_hessian(h, steps, damping)));
  const auto group_at = [&](std::int64_t j) {
    return (order == ActOrder::full ? j : steps[static_cast<std::size_t>(j)]) / size;
  };
  const std::int64_t groups = (columns + size - 1) / size;
  TextbookResult result{Matrix(weight.rows, columns), Matrix(groups, weight.rows),
                        Matrix(groups, weight.rows), std::vector<std::int64_t>(steps.size()),
                        std::vector<int>(static_cast<std::size_t>(weight.rows))};
  const double top = std::ldexp(1.0, spec.bits) - 1.0;
  Matrix w = in_order(weight, steps);
  for (std::int64_t j = 0; j < columns; ++j) {
    const std::int64_t group = group_at(j);
    const std::int64_t column = steps[static_cast<std::size_t>(j)];
    result.group_of[static_cast<std::size_t>(column)] = group;
    std::int64_t end = j + 1;
    while (end < columns && group_at(end) == group) ++end;
    for (std::int64_t n = 0; n < w.rows; ++n) {
      if (j == 0 || group_at(j - 1) != group) {
        const Grid grid = absmax_grid(w, n, j, end, spec);
        result.scales(group, n) = grid.scale;
        result.zeros(group, n) = grid.zero;
      }
      const double position = w(n, j) / result.scales(group, n);
      const double zero = result.zeros(group, n);
      if (std::fabs(std::fabs(position - std::floor(position)) - 0.5) < 1e-9) {
        ++result.tied[static_cast<std::size_t>(n)];
      }
      const double code = std::clamp(std::nearbyint(position) + zero, 0.0, top);
      result.codes(n, column) = code;
      const double error = (w(n, j) - result.scales(group, n) * (code - zero)) / u(j, j);
      for (std::int64_t k = j; k < columns; ++k) w(n, k) -= error * u(j, k);
    }
  }
  return result;
}

}  // namespace quern::test
