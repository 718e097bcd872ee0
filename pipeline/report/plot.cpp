#include "pipeline/report/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "pipeline/report/axis.h"
#include "pipeline/report/label_places.h"
#include "pipeline/report/page.h"

namespace quern {
namespace {

struct Size {
  const char* css_class;
  double width;
  double height;
};
constexpr Size kWide{"wide", 720.0, 430.0};
constexpr Size kNarrow{"narrow", 344.0, 380.0};

constexpr double kMarker = 4.5;  // half the size of a point
constexpr double kLine = 13.0;   // height of a line of text
constexpr double kCharacter = 6.5;
constexpr double kTickWidth = 46.0;
constexpr double kTickHeight = 28.0;
constexpr std::array<std::string_view, 8> kColours{"#4a86c8", "#d9652b", "#2f9e6e", "#b65fa8",
                                                   "#9a8412", "#cf4a5b", "#2a9fb5", "#868b93"};
constexpr std::size_t kShapes = 6;

/// A drawing area and what turns values into its coordinates.
struct Frame {
  Box area;
  Axis x;
  Axis y;

  double across(double value) const {
    return area.left + x.position(value) * (area.right - area.left);
  }
  double down(double value) const {
    return area.bottom - y.position(value) * (area.bottom - area.top);
  }
};

/// All points, each with the index of its series.
std::vector<std::pair<std::size_t, const Plot::Point*>> points_of(const Plot& plot) {
  std::vector<std::pair<std::size_t, const Plot::Point*>> points;
  for (std::size_t i = 0; i < plot.series.size(); ++i) {
    for (const Plot::Point& point : plot.series[i].points) points.emplace_back(i, &point);
  }
  return points;
}

Frame frame_of(const Plot& plot, const Size& size) {
  std::vector<double> xs;
  std::vector<double> ys;
  for (const auto& [series, point] : points_of(plot)) {
    xs.push_back(point->x);
    ys.push_back(point->y);
  }
  if (plot.level) ys.push_back(plot.level->y);
  const auto [left, right] = std::ranges::minmax(xs);
  const auto [low, high] = std::ranges::minmax(ys);
  return {{48.0, 10.0, size.width - 10.0, size.height - 42.0},
          Axis::logarithmic(left, right),
          plot.level ? Axis::around(plot.level->y, low, high) : Axis::logarithmic(low, high)};
}

std::string line_svg(const char* css_class, double x1, double y1, double x2, double y2) {
  return fmt::format("<line class={} x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>",
                     css_class, x1, y1, x2, y2);
}

/// css_class picks a style and what a test finds it by; anchor is start, middle or end.
std::string text_svg(const char* css_class, double x, double y, const char* anchor,
                     const std::string& text) {
  return fmt::format("<text class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>",
                     css_class, x, y, anchor, escaped(text));
}

std::string axes_svg(const Plot& plot, const Frame& frame, const Size& size) {
  const Box& area = frame.area;
  std::string svg;
  for (const double tick : frame.x.ticks(kTickWidth / (area.right - area.left))) {
    const double x = frame.across(tick);
    svg += line_svg("grid", x, area.top, x, area.bottom);
    svg += text_svg("tick", x, area.bottom + 18.0, "middle", tick_text(tick));
  }
  for (const double tick : frame.y.ticks(kTickHeight / (area.bottom - area.top))) {
    const double y = frame.down(tick);
    svg += line_svg("grid", area.left, y, area.right, y);
    svg += text_svg("tick", area.left - 5.0, y + 4.0, "end", tick_text(tick));
  }
  svg +=
      fmt::format("<rect class=axis x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\"/>",
                  area.left, area.top, area.right - area.left, area.bottom - area.top);
  svg +=
      text_svg("title", 0.5 * (area.left + area.right), size.height - 6.0, "middle", plot.x_title);
  return svg + fmt::format(
                   "<text class=title transform=\"translate(10 {:.1f}) rotate(-90)\" "
                   "text-anchor=\"middle\">{}</text>",
                   0.5 * (area.top + area.bottom), escaped(plot.y_title));
}

/// The outline of a marker around (0, 0).
std::string shape_svg(std::size_t series) {
  constexpr double r = kMarker;
  switch (series % kShapes) {
    case 0:
      return fmt::format("<circle r=\"{}\"/>", r);
    case 1:
      return fmt::format("<rect x=\"{0}\" y=\"{0}\" width=\"{1}\" height=\"{1}\"/>", -0.9 * r,
                         1.8 * r);
    case 2:
      return fmt::format("<path d=\"M0 {:.2f}L{:.2f} {:.2f}H{:.2f}Z\"/>", -1.1 * r, 1.1 * r,
                         0.9 * r, -1.1 * r);
    case 3:
      return fmt::format("<path d=\"M0 {0:.2f}L{1:.2f} 0L0 {1:.2f}L{0:.2f} 0Z\"/>", -1.2 * r,
                         1.2 * r);
    case 4:
      return fmt::format("<path d=\"M0 {:.2f}L{:.2f} {:.2f}H{:.2f}Z\"/>", 1.1 * r, 1.1 * r,
                         -0.9 * r, -1.1 * r);
    default:
      return fmt::format(
          "<path d=\"M{0:.2f} {0:.2f}L{1:.2f} {1:.2f}M{0:.2f} {1:.2f}L{1:.2f} "
          "{0:.2f}\" stroke-width=\"2.5\"/>",
          -0.9 * r, 0.9 * r);
  }
}

std::string marker_svg(const Plot::Point& point, std::size_t series, const Frame& frame) {
  const std::string_view colour = kColours[series % kColours.size()];
  return fmt::format(
      "<g class=marker transform=\"translate({:.1f} {:.1f})\" fill=\"{}\" stroke=\"{}\"><title>{}"
      "</title>{}</g>",
      frame.across(point.x), frame.down(point.y), colour, colour, escaped(point.title),
      shape_svg(series));
}

/// The line of a level, named where no marker stands; `label` is where that is.
std::string level_svg(const Plot::Level& level, const Frame& frame, const std::vector<Box>& markers,
                      Box& label) {
  const double y = frame.down(level.y);
  const double width = kCharacter * static_cast<double>(level.name.size());
  const auto is_free = [&](const Box& box) {
    return frame.area.holds(box) &&
           std::ranges::none_of(markers, [&](const Box& marker) { return marker.overlaps(box); });
  };
  for (const double top : {y - kLine - 2.0, y + 2.0}) {
    for (double left = frame.area.right - width - 4.0; left > frame.area.left; left -= 16.0) {
      label = {left, top, left + width, top + kLine};
      if (!is_free(label)) continue;
      return line_svg("full", frame.area.left, y, frame.area.right, y) +
             text_svg("halo level", left, top + kLine - 3.0, "start", level.name);
    }
  }
  label = {};
  return line_svg("full", frame.area.left, y, frame.area.right, y);
}

std::vector<Box> marker_boxes(const Plot& plot, const Frame& frame) {
  std::vector<Box> boxes;
  for (const auto& [series, point] : points_of(plot)) {
    const double x = frame.across(point->x);
    const double y = frame.down(point->y);
    const double half = kMarker + 1.0;
    boxes.push_back({x - half, y - half, x + half, y + half});
  }
  return boxes;
}

std::string labels_svg(const Plot& plot, const Frame& frame, const std::vector<Box>& obstacles) {
  const auto points = points_of(plot);
  std::vector<LabelWish> wishes;
  for (const auto& [series, point] : points) {
    wishes.push_back({frame.across(point->x), frame.down(point->y),
                      kCharacter * static_cast<double>(point->label.size()), kLine});
  }
  const auto places = place_labels(wishes, frame.area, obstacles);
  std::string svg;
  for (std::size_t i = 0; i < places.size(); ++i) {
    if (!places[i]) continue;
    const Box& box = places[i]->box;
    if (!places[i]->beside) {
      svg +=
          line_svg("lead", wishes[i].x, wishes[i].y, std::clamp(wishes[i].x, box.left, box.right),
                   std::clamp(wishes[i].y, box.top + 2.0, box.bottom - 2.0));
    }
    svg += text_svg("halo label", box.left, box.bottom - 3.0, "start", points[i].second->label);
  }
  return svg;
}

std::string plot_svg(const Plot& plot, const Size& size) {
  const Frame frame = frame_of(plot, size);
  std::string svg = axes_svg(plot, frame, size);
  std::vector<Box> obstacles = marker_boxes(plot, frame);
  Box level_name;
  if (plot.level) svg += level_svg(*plot.level, frame, obstacles, level_name);
  obstacles.push_back(level_name);
  std::string front;
  for (const auto& [x, y] : plot.front) {
    front += fmt::format("{:.1f},{:.1f} ", frame.across(x), frame.down(y));
  }
  svg += fmt::format("<polyline class=front points=\"{}\"/>", front);
  std::string markers;
  for (const auto& [series, point] : points_of(plot)) markers += marker_svg(*point, series, frame);
  svg += labels_svg(plot, frame, obstacles) + markers;
  return fmt::format(
      "<svg class=\"plot {}\" viewBox=\"0 0 {:.0f} {:.0f}\" role=\"img\" aria-label=\"{}\">{}"
      "</svg>\n",
      size.css_class, size.width, size.height, escaped(plot.name), svg);
}

std::string legend_html(const Plot& plot) {
  std::string items;
  for (std::size_t i = 0; i < plot.series.size(); ++i) {
    const std::string_view colour = kColours[i % kColours.size()];
    items += fmt::format(
        "<li><svg width=\"14\" height=\"14\" viewBox=\"-7 -7 14 14\" fill=\"{}\" stroke=\"{}\" "
        "aria-hidden=\"true\">{}</svg>{}</li>",
        colour, colour, shape_svg(i), escaped(plot.series[i].name));
  }
  return fmt::format("<ul class=legend>{}</ul>\n", items);
}

}  // namespace

std::string plot_html(const Plot& plot) {
  Plot shown = plot;
  std::erase_if(shown.series, [](const Plot::Series& series) { return series.points.empty(); });
  if (shown.series.empty()) return {};
  return plot_svg(shown, kWide) + plot_svg(shown, kNarrow) + legend_html(shown);
}

}  // namespace quern
