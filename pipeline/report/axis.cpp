#include "pipeline/report/axis.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace quern {
namespace {

constexpr double kMargin = 0.06;      // of the range, beyond the outermost values
constexpr double kUnit = 0.01;        // of the origin: where plain steps become logarithmic
constexpr double kReluctance = 0.06;  // more distance that each finer step asks for
constexpr int kFinest = 4;  // decades below the range in which round values are looked for
constexpr double kMaxMultiples = 1e3;  // of one step that are looked at

}  // namespace

Axis Axis::logarithmic(double least, double most) {
  Axis axis(Scale::logarithmic, 1.0);
  axis.cover(least, most);
  return axis;
}

Axis Axis::around(double origin, double least, double most) {
  Axis axis(Scale::around, origin);
  axis.cover(least, most);
  return axis;
}

void Axis::cover(double least, double most) {
  low_ = forward(least);
  high_ = forward(most);
  const double room = high_ > low_ ? kMargin * (high_ - low_) : 0.1;
  low_ -= room;
  high_ += room;
}

double Axis::forward(double value) const {
  return scale_ == Scale::logarithmic ? std::log(value)
                                      : std::asinh((value - origin_) / (kUnit * origin_));
}

double Axis::backward(double scaled) const {
  return scale_ == Scale::logarithmic ? std::exp(scaled)
                                      : origin_ + kUnit * origin_ * std::sinh(scaled);
}

double Axis::position(double value) const {
  return (forward(value) - low_) / (high_ - low_);
}

std::vector<double> Axis::ticks(double distance) const {
  const double low = backward(low_);
  const double high = backward(high_);
  const double coarsest = std::pow(10.0, std::floor(std::log10(high)));
  std::vector<double> found;
  const auto try_tick = [&](double value, double room) {
    const double where = position(value);
    const bool crowded = std::ranges::any_of(
        found, [&](double other) { return std::abs(position(other) - where) < room; });
    if (!crowded) found.push_back(value);
  };
  // The roundest first, so that finer ones only fill gaps, and the finer the wider ones.
  double room = (1.0 - kReluctance) * distance;
  for (int decade = 0; decade <= kFinest; ++decade) {
    for (const double factor : {1.0, 0.5, 0.2}) {
      const double step = factor * coarsest / std::pow(10.0, decade);
      room += kReluctance * distance;
      const double first = std::max(1.0, std::ceil(low / step));
      if (high / step - first > kMaxMultiples) continue;
      for (double i = first; i * step <= high; i += 1.0) try_tick(i * step, room);
    }
  }
  std::ranges::sort(found);
  return found;
}

std::string tick_text(double value) {
  return fmt::format("{:.6g}", value);
}

}  // namespace quern
