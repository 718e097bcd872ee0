#include "pipeline/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <sstream>

namespace quern::test {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

class ProgressLines : public testing::Test {
 protected:
  ProgressLines() {
    auto sink = std::make_shared<spdlog::sinks::ostream_sink_mt>(stream_);
    sink->set_pattern("%v");
    log_ = std::make_shared<spdlog::logger>("test", std::move(sink));
  }
  std::ostringstream stream_;
  std::shared_ptr<spdlog::logger> log_;
};

TEST_F(ProgressLines, CountsUnitsAndEstimatesTheRest) {
  Progress progress(log_, {});
  progress.begin("quantize layer", 3);
  EXPECT_THAT(stream_.str(), IsEmpty());
  progress.step("layer 0 committed");
  progress.step("layer 1 committed");
  progress.step("layer 2 committed");
  progress.end();
  EXPECT_THAT(stream_.str(), HasSubstr("quantize layer 1/3: layer 0 committed; 0 s elapsed, "));
  EXPECT_THAT(stream_.str(), HasSubstr("quantize layer 3/3: layer 2 committed"));
  EXPECT_THAT(stream_.str(), HasSubstr("0 s left"));
}

TEST_F(ProgressLines, WhatAnEarlierRunDidCountsButNotForTheEstimate) {
  Progress progress(log_, {});
  progress.begin("quantize layer", 8, 5);
  EXPECT_THAT(stream_.str(), HasSubstr("5 of 8 done by an earlier run"));
  progress.step("layer 5 committed");
  EXPECT_THAT(stream_.str(), HasSubstr("6/8"));
}

TEST_F(ProgressLines, OtherRanksAreSilent) {
  Progress progress(log_, {.enabled = false, .terminal = true});
  testing::internal::CaptureStderr();
  progress.begin("quantize layer", 2, 1);
  progress.step("layer 1 committed");
  progress.end();
  EXPECT_THAT(testing::internal::GetCapturedStderr(), IsEmpty());
  EXPECT_THAT(stream_.str(), IsEmpty());
}

TEST_F(ProgressLines, TheUnitInHandIsKnownOnEveryRank) {
  Progress progress(log_, {.enabled = false});
  progress.begin("backward layer", 8, 5);
  EXPECT_EQ(progress.unit(), "backward layer 6 of 8");
  progress.step("gradients of layer 2");
  EXPECT_EQ(progress.unit(), "backward layer 7 of 8");
}

TEST_F(ProgressLines, ATerminalLineIsRewritten) {
  Progress progress(log_, {.enabled = true, .terminal = true});
  testing::internal::CaptureStderr();
  progress.begin("quantize layer", 4);
  progress.step("layer 0 committed");
  const std::string line = testing::internal::GetCapturedStderr();
  EXPECT_THAT(line, HasSubstr("\r"));
  EXPECT_THAT(line, HasSubstr("1/4 (25 %)"));
  EXPECT_THAT(line, Not(HasSubstr("\n")));
}

}  // namespace
}  // namespace quern::test
