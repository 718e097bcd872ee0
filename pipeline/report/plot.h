#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace quern {

/// Points in a plane, both coordinates above 0. x is logarithmic, y too, or in steps of the
/// distance from the level if there is one.
struct Plot {
  struct Point {
    double x = 0.0;
    double y = 0.0;
    std::string label;  ///< short, beside the point
    std::string title;  ///< shown when pointed at
  };
  struct Series {
    std::string name;
    std::vector<Point> points;
  };
  struct Level {
    double y = 0.0;
    std::string name;
  };
  std::string name;  ///< what the picture shows, for those who cannot see it
  std::string x_title;
  std::string y_title;
  std::vector<Series> series;                    ///< each with a colour and a shape of its own
  std::vector<std::pair<double, double>> front;  ///< joined by a line, in this order
  std::optional<Level> level;                    ///< a horizontal line
};

/// The picture twice, drawn for a screen and for a phone, of which the page shows the one that
/// fits, and its legend. "" for a plot without points.
std::string plot_html(const Plot& plot);

}  // namespace quern
