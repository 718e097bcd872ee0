#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "kernels/solver.h"

namespace quern::test {

/// gptq() of some rows of one module; tensors in host memory.
using SolveRows = std::function<QuantizedTensor(const RowRange&)>;

/// Element (row n, column k) of codes is what `whole` has there if n is in range, else 0; scales
/// and zeros likewise.
inline void expect_rows_of(const QuantizedTensor& part, const QuantizedTensor& whole,
                           const RowRange& range) {
  const std::int64_t rows = whole.codes.shape()[0];
  const std::int64_t columns = whole.codes.shape()[1];
  const std::int64_t groups = whole.scales.shape()[0];
  std::int64_t wrong = 0;
  for (std::int64_t n = 0; n < rows; ++n) {
    const bool inside = n >= range.begin && n < range.end;
    const auto compare = [&](const auto* actual, const auto* expected, std::int64_t at) {
      wrong += actual[at] == (inside ? expected[at] : 0) ? 0 : 1;
    };
    for (std::int64_t k = 0; k < columns; ++k) {
      compare(part.codes.view().as<std::uint8_t>(), whole.codes.view().as<std::uint8_t>(),
              n * columns + k);
    }
    for (std::int64_t g = 0; g < groups; ++g) {
      compare(part.scales.view().as<std::uint16_t>(), whole.scales.view().as<std::uint16_t>(),
              g * rows + n);
      compare(part.zeros.view().as<std::uint8_t>(), whole.zeros.view().as<std::uint8_t>(),
              g * rows + n);
    }
  }
  EXPECT_EQ(wrong, 0) << "rows " << range.begin << " to " << range.end << " of " << rows;
}

/// Every slice alone, the first two thirds and the rest, and nothing.
inline void expect_rows_to_be_solved_apart(std::int64_t rows, const SolveRows& solve) {
  const QuantizedTensor whole = solve({});
  const std::int64_t slice = Solver::row_slice(rows);
  const std::int64_t cut = (2 * rows / 3 + slice - 1) / slice * slice;
  std::vector<RowRange> ranges = {{0, cut}, {cut, rows}, {rows, rows}, {0, 0}};
  for (std::int64_t begin = 0; begin < rows; begin += slice) {
    ranges.push_back({begin, std::min(begin + slice, rows)});
  }
  ASSERT_GT(ranges.size(), 5U) << "a module of more than one slice";
  for (const RowRange& range : ranges) expect_rows_of(solve(range), whole, range);
}

}  // namespace quern::test
