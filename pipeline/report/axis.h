#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace quern {

/// One axis of a plot: a range with room at both ends.
class Axis {
 public:
  /// Even steps of the logarithm; values above 0.
  static Axis logarithmic(double least, double most);
  /// Even steps of the logarithm of the distance from `origin`, and plain ones within a hundredth
  /// of it: what gets close to a limit stays apart. origin > 0; values on both sides of it.
  static Axis around(double origin, double least, double most);

  /// Where a value lies: 0 at the low end, 1 at the high end.
  double position(double value) const;
  /// Round values to mark, ascending, no two closer than `distance` in position.
  std::vector<double> ticks(double distance) const;

 private:
  enum class Scale : std::uint8_t { logarithmic, around };

  Axis(Scale scale, double origin) : scale_(scale), origin_(origin) {}
  void cover(double least, double most);
  double forward(double value) const;
  double backward(double scaled) const;

  Scale scale_;
  double origin_;
  double low_ = 0.0;   // scaled
  double high_ = 1.0;  // scaled
};

/// A tick as text: without trailing zeros.
std::string tick_text(double value);

}  // namespace quern
