#pragma once

#include <optional>
#include <vector>

namespace quern {

/// A rectangle of a picture; y grows downwards.
struct Box {
  double left = 0.0;
  double top = 0.0;
  double right = 0.0;
  double bottom = 0.0;

  bool overlaps(const Box& other) const noexcept;
  bool holds(const Box& other) const noexcept;
};

/// A label that wants to stand near a point.
struct LabelWish {
  double x = 0.0;
  double y = 0.0;
  double width = 0.0;
  double height = 0.0;
};

struct LabelPlace {
  Box box;
  bool beside = true;  ///< so near that no line to the point is needed
};

/// Places labels inside `area`, one after another, so that none overlaps another one or an
/// obstacle; none for a label that finds no room. Deterministic.
std::vector<std::optional<LabelPlace>> place_labels(const std::vector<LabelWish>& wishes,
                                                    const Box& area, std::vector<Box> obstacles);

}  // namespace quern
