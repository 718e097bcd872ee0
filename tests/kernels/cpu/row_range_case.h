#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <span>
#include <vector>

#include "kernels/solver.h"
#include "tests/kernels/cpu/solver_case.h"

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

/// Solves modules of one input; tensors in host memory.
using SolveModules = std::function<std::vector<QuantizedTensor>(std::span<const GridModule>)>;

/// The result of several modules is that of each alone, bit for bit. weights: of the modules in
/// turn; more modules than are put side by side, with different grids, some of them in part.
inline void expect_modules_to_be_solved_apart(std::span<const ConstTensorView> weights,
                                              const SolveModules& solve) {
  const GridSpec grids[] = {{4, 128}, {3, 128, false}, {2, 32, true, ScaleSearch::absmax}};
  std::vector<GridModule> modules;
  for (std::size_t i = 0; i < 11; ++i) {
    const ConstTensorView& weight = weights[i % weights.size()];
    modules.push_back({"m", weight, grids[i % 3]});
    if (i % 4 == 1) modules.back().rows = {0, Solver::row_slice(weight.shape[0])};
    if (i % 4 == 2) modules.back().rows = {weight.shape[0], weight.shape[0]};
  }
  const std::vector<QuantizedTensor> together = solve(modules);
  ASSERT_EQ(together.size(), modules.size());
  for (std::size_t i = 0; i < modules.size(); ++i) {
    SCOPED_TRACE(testing::Message() << "module " << i);
    const std::vector<QuantizedTensor> alone = solve({&modules[i], 1});
    for (const auto part : {&QuantizedTensor::codes, &QuantizedTensor::scales,
                            &QuantizedTensor::zeros, &QuantizedTensor::group_of}) {
      EXPECT_TRUE(same_bytes(together[i].*part, alone.front().*part));
    }
  }
}

}  // namespace quern::test
