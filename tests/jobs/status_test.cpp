#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/jobs/finished_run.h"

namespace quern::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

json status(const RunFolder& run) {
  return json_answer_of({"status", run.directory().string(), "--json"});
}

std::string status_text(const RunFolder& run) {
  return answer_of({"status", run.directory().string()});
}

TEST(Status, OfAFinishedRun) {
  const RunFolder& run = finished_run();
  const json now = status(run);
  EXPECT_EQ(now.at("directory"), run.directory().string());
  EXPECT_EQ(now.at("state"), "finished");
  EXPECT_EQ(now.at("committed"), 8);
  EXPECT_EQ(now.at("total"), 8);
  EXPECT_EQ(now.at("layers"), 2);
  EXPECT_TRUE(now.at("next").is_null());
  std::uintmax_t bytes = 0;
  for (const auto& file : bundle_files(run.directory())) bytes += file_size(file);
  EXPECT_EQ(now.at("committed_bytes"), bytes);
  EXPECT_FALSE(now.contains("host"));
  EXPECT_THAT(status_text(run), HasSubstr("finished\n  committed  8 of 8 bundles"));
}

TEST(Status, OfAStoppedRunSaysWhatIsNext) {
  const TwoLayerModel model;
  const RunFolder run(model.path());
  const ProcessResult stopped =
      run_process(quern_stepper(1, {.step = 40, .signal = SIGUSR2}, run.quantize()));
  ASSERT_EQ(stopped.exit_code, 75) << stopped.err;
  EXPECT_THAT(stopped.err, HasSubstr("quern: stopped: "));
  const json now = status(run);
  EXPECT_EQ(now.at("state"), "stopped");
  const int committed = now.at("committed");
  ASSERT_GT(committed, 0) << now;
  ASSERT_LT(committed, 8) << now;
  EXPECT_EQ(now.at("next"),
            fmt::format("layers/layer-{:03}/bundle-{:02}.h5", committed / 4, committed % 4));
  const std::string text = status_text(run);
  EXPECT_THAT(text, HasSubstr(fmt::format("committed  {} of 8 bundles", committed)));
  EXPECT_THAT(text, HasSubstr("run quantize again to resume"));
  run.finish(1);
  EXPECT_EQ(status(run).at("state"), "finished");
}

TEST(Status, OfAKilledRunNamesItsLastHolder) {
  const TwoLayerModel model;
  const RunFolder run(model.path());
  const ProcessResult killed =
      run_process(quern_stepper(1, {.step = 40, .signal = SIGKILL}, run.quantize()));
  ASSERT_EQ(killed.signal, SIGKILL) << killed.err;
  const json now = status(run);
  EXPECT_EQ(now.at("state"), "stopped");
  EXPECT_LT(now.at("committed"), 8);
  EXPECT_TRUE(now.at("host").is_string());
  EXPECT_GT(now.at("process"), 0);
  EXPECT_GE(now.at("heartbeat_age_s"), 0);
  EXPECT_TRUE(now.at("activity").is_string());
  EXPECT_THAT(status_text(run), HasSubstr("was held by  process "));
}

}  // namespace
}  // namespace quern::test
