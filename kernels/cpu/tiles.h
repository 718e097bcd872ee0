#pragma once

#include <algorithm>
#include <cstdint>

namespace quern {

/// A part of a matrix that one thread computes.
struct Tile {
  std::int64_t row, rows;
  std::int64_t column, columns;
};

/// A matrix cut into square tiles, smaller at the end, whatever the thread count.
struct Tiling {
  std::int64_t rows, columns;
  std::int64_t edge;

  std::int64_t down() const { return (rows + edge - 1) / edge; }
  std::int64_t across() const { return (columns + edge - 1) / edge; }
  std::int64_t count() const { return down() * across(); }

  /// Tiles run down the rows first, so that threads working side by side share their columns.
  Tile at(std::int64_t index) const {
    const std::int64_t row = index % down() * edge;
    const std::int64_t column = index / down() * edge;
    return {row, std::min(edge, rows - row), column, std::min(edge, columns - column)};
  }
};

}  // namespace quern
