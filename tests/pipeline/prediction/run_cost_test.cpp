#include "pipeline/prediction/run_cost.h"

#include <gtest/gtest.h>

namespace quern::test {
namespace {

RunCost cost(double seconds, double solve, double output, double host,
             std::optional<double> device = std::nullopt) {
  return {.seconds = seconds,
          .stages = {{"solve", solve}},
          .state_bytes = output / 2,
          .output_bytes = output,
          .host_bytes = host,
          .device_bytes = device};
}

TEST(RunCost, GrowsByWhatEachAddedLayerTakes) {
  // 2 layers: 10 s at first, 7 s when warm; 4 more take 12 s; 30 are missing: 10 + 30 x 3.
  const RunCost first = cost(10, 2, 1000, 5, 50);
  const RunCost repeated = cost(7, 1, 1000, 6, 50);
  const std::vector<LongerRun> longer = {{cost(19, 5, 1800, 8, 60), 4, 30}};
  const RunCost whole = extrapolated(first, repeated, longer);
  EXPECT_DOUBLE_EQ(whole.seconds, 100);
  EXPECT_DOUBLE_EQ(whole.stages.at("solve"), 2 + 30 * 1);
  EXPECT_DOUBLE_EQ(whole.output_bytes, 1000 + 30 * 200);
  EXPECT_DOUBLE_EQ(whole.state_bytes, 500 + 30 * 100);
  EXPECT_DOUBLE_EQ(whole.disk_bytes(), 7000 + 3500);
  EXPECT_DOUBLE_EQ(whole.host_bytes, 8);
  EXPECT_DOUBLE_EQ(whole.device_bytes.value(), 60);
}

TEST(RunCost, AddsUpKindsOfLayers) {
  const RunCost once = cost(4, 0, 10, 1);
  const std::vector<LongerRun> longer = {{cost(6, 0, 14, 1), 2, 10}, {cost(9, 0, 10, 1), 1, 3}};
  const RunCost whole = extrapolated(once, once, longer);
  EXPECT_DOUBLE_EQ(whole.seconds, 4 + 10 * 1 + 3 * 5);
  EXPECT_DOUBLE_EQ(whole.output_bytes, 10 + 10 * 2 + 3 * 0);
  EXPECT_FALSE(whole.device_bytes.has_value());
}

/// 8 s beside the stage become 11 s with two layers more; ten more make 23 s, and the stage is
/// gone.
TEST(RunCost, AStageThatIsHiddenEndsAtZero) {
  const RunCost once = cost(10, 2, 10, 1);
  const std::vector<LongerRun> longer = {{cost(12, 1, 10, 1), 2, 10}};
  const RunCost whole = extrapolated(once, once, longer);
  EXPECT_DOUBLE_EQ(whole.stages.at("solve"), 0);
  EXPECT_DOUBLE_EQ(whole.seconds, 23);
}

TEST(RunCost, AStageThatOnlyTheLongerRunHasCounts) {
  RunCost longer = cost(5, 1, 10, 1);
  longer.stages["install"] = 0.5;
  const std::vector<LongerRun> runs = {{longer, 1, 4}};
  EXPECT_DOUBLE_EQ(extrapolated(cost(4, 1, 10, 1), cost(4, 1, 10, 1), runs).stages.at("install"),
                   2);
}

TEST(RunCost, IsReadAsItIsWritten) {
  for (const auto& device : {std::optional<double>(), std::optional<double>(7.0)}) {
    const RunCost written = cost(10, 2, 1000, 5, device);
    const RunCost read = cost_of(cost_json(written));
    EXPECT_EQ(read.seconds, written.seconds);
    EXPECT_EQ(read.stages, written.stages);
    EXPECT_EQ(read.state_bytes, written.state_bytes);
    EXPECT_EQ(read.output_bytes, written.output_bytes);
    EXPECT_EQ(read.host_bytes, written.host_bytes);
    EXPECT_EQ(read.device_bytes, written.device_bytes);
  }
}

}  // namespace
}  // namespace quern::test
