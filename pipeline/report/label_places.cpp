#include "pipeline/report/label_places.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <numeric>

namespace quern {
namespace {

constexpr double kGap = 7.0;  // from the point to a label beside it
constexpr std::array<double, 6> kRings{18.0, 28.0, 40.0, 54.0, 70.0, 88.0};
constexpr int kDirections = 16;

Box box_at(double left, double top, const LabelWish& wish) {
  return {left, top, left + wish.width, top + wish.height};
}

/// Right, left, above, below, then the corners.
std::vector<LabelPlace> places_beside(const LabelWish& wish) {
  const double right = wish.x + kGap;
  const double left = wish.x - kGap - wish.width;
  const double middle = wish.x - 0.5 * wish.width;
  const double level = wish.y - 0.5 * wish.height;
  const double above = wish.y - kGap - wish.height + 1.0;
  const double below = wish.y + kGap - 1.0;
  return {{box_at(right, level, wish)},  {box_at(left, level, wish)},
          {box_at(middle, above, wish)}, {box_at(middle, below, wish)},
          {box_at(right, above, wish)},  {box_at(right, below, wish)},
          {box_at(left, above, wish)},   {box_at(left, below, wish)}};
}

/// Around the point, ring by ring, connected by a line.
std::vector<LabelPlace> places_around(const LabelWish& wish) {
  std::vector<LabelPlace> places;
  for (const double radius : kRings) {
    for (int i = 0; i < kDirections; ++i) {
      const double angle = 2.0 * std::numbers::pi * i / kDirections;
      const double x = wish.x + (radius + 0.5 * wish.width) * std::cos(angle);
      const double y = wish.y + radius * std::sin(angle);
      places.push_back({box_at(x - 0.5 * wish.width, y - 0.5 * wish.height, wish), false});
    }
  }
  return places;
}

}  // namespace

bool Box::overlaps(const Box& other) const noexcept {
  return left < other.right && other.left < right && top < other.bottom && other.top < bottom;
}

bool Box::holds(const Box& other) const noexcept {
  return left <= other.left && other.right <= right && top <= other.top && other.bottom <= bottom;
}

std::vector<std::optional<LabelPlace>> place_labels(const std::vector<LabelWish>& wishes,
                                                    const Box& area, std::vector<Box> obstacles) {
  std::vector<std::size_t> order(wishes.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, [&](std::size_t a, std::size_t b) {
    return std::pair(wishes[a].y, wishes[a].x) < std::pair(wishes[b].y, wishes[b].x);
  });
  std::vector<std::optional<LabelPlace>> result(wishes.size());
  const auto is_free = [&](const LabelPlace& place) {
    return area.holds(place.box) && std::ranges::none_of(obstacles, [&](const Box& obstacle) {
             return obstacle.overlaps(place.box);
           });
  };
  for (const auto& places_of : {places_beside, places_around}) {
    for (const std::size_t i : order) {
      if (result[i]) continue;
      const std::vector<LabelPlace> places = places_of(wishes[i]);
      const auto found = std::ranges::find_if(places, is_free);
      if (found == places.end()) continue;
      result[i] = *found;
      obstacles.push_back(found->box);
    }
  }
  return result;
}

}  // namespace quern
