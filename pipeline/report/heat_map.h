#pragma once

#include <optional>
#include <string>
#include <vector>

namespace quern {

/// Values in a grid, drawn as colours on a logarithmic scale. Fits the width it stands in.
struct HeatMap {
  struct Cell {
    std::size_t column = 0;
    std::optional<std::size_t> row;  ///< none: the whole column
    double value = 0.0;
    std::string title;  ///< shown when pointed at
  };
  std::vector<std::string> columns;  ///< labels; all are short but the last ones may be words
  std::size_t counted = 0;           ///< the first so many columns are numbered from 0
  std::vector<std::string> rows;
  std::vector<Cell> cells;
};

/// The range of a logarithmic colour scale, both above 0.
struct ColourRange {
  double low = 1.0;
  double high = 1.0;
};

/// From the least to the largest value above 0; {1, 1} if there is none.
ColourRange range_of(const HeatMap& map);

/// The smallest range that holds both.
ColourRange united(const ColourRange& a, const ColourRange& b);

/// "#rrggbb"; values of 0 and below get the colour of the least.
std::string colour_of(double value, const ColourRange& range);

/// HTML with SVG; the picture has a text alternative and a tooltip per cell.
std::string heat_map_html(const HeatMap& map, const ColourRange& range);

/// The legend of a range; `quantity` says what the colours mean.
std::string colour_legend(const ColourRange& range, const std::string& quantity);

}  // namespace quern
