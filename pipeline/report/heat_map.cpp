#include "pipeline/report/heat_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "pipeline/report/page.h"

namespace quern {
namespace {

constexpr double kRowHeight = 18.0;
constexpr double kCharacterWidth = 6.3;  // of 11 px text, on the safe side
constexpr std::size_t kMaxTicks = 9;     // numbers that fit on a phone

using Colour = std::array<double, 3>;
// Dark to bright in even steps of lightness, so that the order survives grey printing.
constexpr std::array<Colour, 7> kStops{{{68, 1, 84},
                                        {65, 62, 133},
                                        {47, 104, 142},
                                        {31, 148, 139},
                                        {62, 187, 117},
                                        {144, 215, 67},
                                        {248, 230, 33}}};

double position(double value, const ColourRange& range) {
  if (!(value > range.low)) return 0.0;
  if (value >= range.high) return 1.0;
  return std::log(value / range.low) / std::log(range.high / range.low);
}

std::string colour_at(double where) {
  const double scaled = where * static_cast<double>(kStops.size() - 1);
  const std::size_t below = std::min(static_cast<std::size_t>(scaled), kStops.size() - 2);
  const double part = scaled - static_cast<double>(below);
  const auto channel = [&](std::size_t i) {
    return static_cast<int>(
        std::lround(kStops[below][i] + part * (kStops[below + 1][i] - kStops[below][i])));
  };
  return fmt::format("#{:02x}{:02x}{:02x}", channel(0), channel(1), channel(2));
}

/// The names of the rows, in pixels, left of the cells.
std::string row_names(const HeatMap& map, double height) {
  std::size_t longest = 0;
  for (const std::string& row : map.rows) longest = std::max(longest, row.size());
  const double width = kCharacterWidth * static_cast<double>(longest) + 6.0;
  std::string text;
  for (std::size_t i = 0; i < map.rows.size(); ++i) {
    text +=
        fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>", width - 6.0,
                    kRowHeight * (static_cast<double>(i) + 0.7), escaped(map.rows[i]));
  }
  return fmt::format(
      "<svg class=names width=\"{:.0f}\" height=\"{:.0f}\" aria-hidden=\"true\">{}</svg>", width,
      height, text);
}

std::string cell_svg(const HeatMap& map, const HeatMap::Cell& cell, const ColourRange& range) {
  const double width = 100.0 / static_cast<double>(map.columns.size());
  const double y = cell.row ? kRowHeight * static_cast<double>(*cell.row) : 0.0;
  const double height =
      cell.row ? kRowHeight
               : kRowHeight * static_cast<double>(std::max<std::size_t>(1, map.rows.size()));
  // A little wider than its share, or neighbours would show a seam.
  return fmt::format(
      "<rect x=\"{:.3f}%\" y=\"{:.1f}\" width=\"{:.3f}%\" height=\"{:.1f}\" fill=\"{}\"><title>{}"
      "</title></rect>",
      width * static_cast<double>(cell.column), y, width * 1.003, height - 1.0,
      colour_of(cell.value, range), escaped(cell.title));
}

/// Every step-th number below the counted columns, and one word for the others.
std::string column_names(const HeatMap& map, double y) {
  const double width = 100.0 / static_cast<double>(map.columns.size());
  const auto others = map.columns.size() - map.counted;
  constexpr std::array<std::size_t, 9> kSteps{1, 2, 5, 10, 20, 50, 100, 200, 500};
  const auto fits = [&](std::size_t step) { return map.counted / step <= kMaxTicks; };
  const auto found = std::ranges::find_if(kSteps, fits);
  const std::size_t step = found == kSteps.end() ? std::max<std::size_t>(1, map.counted) : *found;
  std::string text;
  for (std::size_t i = 0; i < map.counted; i += step) {
    text += fmt::format("<text x=\"{:.3f}%\" y=\"{:.1f}\" text-anchor=\"middle\">{}</text>",
                        width * (static_cast<double>(i) + 0.5), y, escaped(map.columns[i]));
  }
  if (others == 0) return text;
  return text + fmt::format("<text x=\"100%\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>", y + 14.0,
                            others == 1 ? escaped(map.columns.back()) : "others");
}

}  // namespace

ColourRange range_of(const HeatMap& map) {
  ColourRange range;
  bool any = false;
  for (const HeatMap::Cell& cell : map.cells) {
    if (!(cell.value > 0.0) || !std::isfinite(cell.value)) continue;
    range.low = any ? std::min(range.low, cell.value) : cell.value;
    range.high = any ? std::max(range.high, cell.value) : cell.value;
    any = true;
  }
  return range;
}

ColourRange united(const ColourRange& a, const ColourRange& b) {
  return {.low = std::min(a.low, b.low), .high = std::max(a.high, b.high)};
}

std::string colour_of(double value, const ColourRange& range) {
  return colour_at(position(value, range));
}

std::string heat_map_html(const HeatMap& map, const ColourRange& range) {
  if (map.cells.empty()) return "<p class=soft>No modules.</p>\n";
  const double grid = kRowHeight * static_cast<double>(std::max<std::size_t>(1, map.rows.size()));
  const bool words = map.columns.size() > map.counted;
  const double height = grid + (words ? 32.0 : 18.0);
  std::string cells;
  for (const HeatMap::Cell& cell : map.cells) cells += cell_svg(map, cell, range);
  return fmt::format(
      "<div class=heat>{}<svg class=cells width=\"100%\" height=\"{:.0f}\" role=\"img\" "
      "aria-label=\"Error of each kind of module in each layer\">{}{}</svg></div>\n",
      row_names(map, height), height, cells, column_names(map, grid + 12.0));
}

std::string colour_legend(const ColourRange& range, const std::string& quantity) {
  std::string stops;
  for (std::size_t i = 0; i < kStops.size(); ++i) {
    stops += ",";
    stops += colour_at(static_cast<double>(i) / static_cast<double>(kStops.size() - 1));
  }
  return fmt::format(
      "<div class=scale><span>{}</span><span>{:.2g}</span><i style=\"background:linear-gradient("
      "90deg{})\"></i><span>{:.2g}</span><span class=soft>logarithmic; middle "
      "{:.2g}</span></div>\n",
      escaped(quantity), range.low, stops, range.high, std::sqrt(range.low * range.high));
}

}  // namespace quern
