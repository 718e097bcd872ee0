#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/run_folder.h"

namespace quern::test {
namespace {

using testing::HasSubstr;

TEST(LostRank, EndsTheJobWhichNamesItAndCanBeResumed) {
  const TwoLayerModel model;
  const RunFolder run(model.path());
  // The delay lets heartbeats tell what rank 1 is doing.
  const StepSignal hang{.step = 12, .signal = SIGSTOP, .rank = 1, .delay_ms = 1500};
  const auto start = std::chrono::steady_clock::now();
  const ProcessResult result = run_process(
      quern_stepper(2, hang, run.quantize({"run.watchdog=3s"})), std::chrono::seconds(60));
  EXPECT_FALSE(result.timed_out) << result.err;
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
  EXPECT_NE(result.exit_code, 0);
  EXPECT_THAT(result.err, HasSubstr("rank 1"));
  EXPECT_THAT(result.err, HasSubstr("silent"));
  EXPECT_THAT(result.err, HasSubstr("layers/layer-000"));
  EXPECT_FALSE(std::filesystem::exists(run.output()));

  run.finish(2);
  EXPECT_EQ(run.output_hashes(), undisturbed_output(model.path(), 1));
}

}  // namespace
}  // namespace quern::test
