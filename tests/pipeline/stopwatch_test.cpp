#include "pipeline/stopwatch.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

namespace quern {
namespace {

void wait_ms(int milliseconds) {
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
}

TEST(Stopwatch, ALayerKnowsOnlyWhatHappenedInIt) {
  Stopwatch watch;
  {
    const auto lap = watch.lap("load");
    wait_ms(20);
  }
  {
    const auto layer = watch.layer_lap(7);
    {
      const auto lap = watch.lap("load");
      wait_ms(5);
    }
    {
      const auto lap = watch.lap("solve");
      wait_ms(5);
    }
    wait_ms(10);
  }
  { const auto layer = watch.layer_lap(8); }
  ASSERT_EQ(watch.layers().size(), 2U);
  const Stopwatch::Layer& first = watch.layers()[0];
  EXPECT_EQ(first.layer, 7);
  ASSERT_EQ(first.parts.size(), 2U);
  EXPECT_DOUBLE_EQ(first.parts.at("solve"), watch.seconds().at("solve"));
  EXPECT_LE(first.parts.at("load"), watch.seconds().at("load") - 0.02);
  EXPECT_GE(first.idle(), 0.01);
  EXPECT_NEAR(first.idle() + first.parts.at("load") + first.parts.at("solve"), first.seconds,
              1e-12);
  EXPECT_TRUE(watch.layers()[1].parts.empty());
}

}  // namespace
}  // namespace quern
