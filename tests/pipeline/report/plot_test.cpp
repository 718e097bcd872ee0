#include "pipeline/report/plot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "pipeline/report/axis.h"
#include "pipeline/report/label_places.h"

namespace quern::test {
namespace {

using testing::DoubleNear;
using testing::HasSubstr;
using testing::Pointwise;

constexpr double kTolerance = 1e-12;

TEST(Axis, LogarithmicStepsAreEven) {
  const Axis axis = Axis::logarithmic(2.0, 8.0);
  EXPECT_NEAR(axis.position(4.0), 0.5, kTolerance);
  EXPECT_NEAR(axis.position(4.0) - axis.position(2.0), axis.position(8.0) - axis.position(4.0),
              kTolerance);
  EXPECT_GT(axis.position(2.0), 0.0);
  EXPECT_LT(axis.position(8.0), 1.0);
}

TEST(Axis, DistancesFromTheOriginAreLogarithmic) {
  const Axis axis = Axis::around(100.0, 100.0, 300.0);
  // asinh(x) is ln(2 x) for large x: equal factors of the distance are equal steps.
  const double step = axis.position(280.0) - axis.position(220.0);
  EXPECT_NEAR(step / (axis.position(300.0) - axis.position(100.0)),
              std::log(1.5) / std::asinh(200.0), 1e-4);
  // Near the origin it is plain, and the same on both sides.
  EXPECT_NEAR(axis.position(100.0) - axis.position(99.9),
              axis.position(100.1) - axis.position(100.0), 1e-9);
}

TEST(Axis, TicksAreRoundAndApart) {
  const std::vector<double> expected{2, 3, 4, 6, 8};
  EXPECT_THAT(Axis::logarithmic(2.0, 8.0).ticks(0.15), Pointwise(DoubleNear(1e-9), expected));
  for (const Axis& axis : {Axis::logarithmic(2.1, 4.6), Axis::around(35.066, 35.066, 148.9),
                           Axis::around(5.68, 5.6, 5.9), Axis::logarithmic(3.0, 3.0)}) {
    const std::vector<double> ticks = axis.ticks(0.08);
    EXPECT_GE(ticks.size(), 2U);
    for (std::size_t i = 0; i < ticks.size(); ++i) {
      EXPECT_GE(axis.position(ticks[i]), 0.0);
      EXPECT_LE(axis.position(ticks[i]), 1.0);
      EXPECT_LE(tick_text(ticks[i]).size(), 6U) << ticks[i];
    }
    for (std::size_t i = 1; i < ticks.size(); ++i) {
      EXPECT_GE(axis.position(ticks[i]) - axis.position(ticks[i - 1]), 0.08);
    }
  }
}

TEST(LabelPlaces, NoneOverlapsAnythingOrLeavesTheArea) {
  const Box area{0, 0, 300, 200};
  std::vector<LabelWish> wishes;
  std::vector<Box> markers;
  for (int i = 0; i < 20; ++i) {
    const double x = 140.0 + 3.0 * (i % 5);
    const double y = 90.0 + 4.0 * (i / 5);
    wishes.push_back({x, y, 40.0, 12.0});
    markers.push_back({x - 4, y - 4, x + 4, y + 4});
  }
  const auto places = place_labels(wishes, area, markers);
  ASSERT_EQ(places.size(), wishes.size());
  for (std::size_t i = 0; i < places.size(); ++i) {
    ASSERT_TRUE(places[i].has_value()) << i;
    EXPECT_TRUE(area.holds(places[i]->box));
    for (std::size_t j = 0; j < i; ++j) EXPECT_FALSE(places[i]->box.overlaps(places[j]->box));
    for (const Box& marker : markers) EXPECT_FALSE(places[i]->box.overlaps(marker));
  }
}

TEST(LabelPlaces, ALoneLabelStandsRightOfItsPoint) {
  const auto places = place_labels({{10, 50, 30, 10}}, {0, 0, 100, 100}, {});
  ASSERT_TRUE(places.at(0).has_value());
  EXPECT_TRUE(places[0]->beside);
  EXPECT_GT(places[0]->box.left, 10.0);
  EXPECT_EQ(places[0]->box.top, 45.0);
  EXPECT_FALSE(place_labels({{10, 50, 300, 10}}, {0, 0, 100, 100}, {}).at(0).has_value());
}

TEST(Plot, AnEmptyOneIsNothing) {
  EXPECT_EQ(plot_html({}), "");
  Plot plot;
  plot.series = {{"empty", {}}};
  EXPECT_EQ(plot_html(plot), "");
}

TEST(Plot, OnePointIsEnough) {
  Plot plot;
  plot.series = {{"a&b", {{3.0, 40.0, "b3", "<title>"}}}};
  const std::string html = plot_html(plot);
  EXPECT_THAT(html, HasSubstr("</svg>a&amp;b</li>"));
  EXPECT_THAT(html, HasSubstr("<title>&lt;title&gt;</title>"));
  EXPECT_THAT(html, testing::Not(HasSubstr("nan")));
}

}  // namespace
}  // namespace quern::test
