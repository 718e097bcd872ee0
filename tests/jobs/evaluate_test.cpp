#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/jobs/finished_run.h"

namespace quern::test {
namespace {

using nlohmann::json;

json evaluate(const RunFolder& run, const Command& more) {
  return json_answer_of(run.arguments("evaluate") + more + Command{"--json"});
}

json of(const RunFolder& run, const std::string& what) {
  return evaluate(run, {"--what", what});
}

TEST(Evaluate, OutputIsTheDefaultAndEqualsTheRun) {
  const RunFolder& run = finished_run();
  const json output = of(run, "output");
  EXPECT_EQ(evaluate(run, {}), output);
  EXPECT_EQ(of(run, "run"), output);
  EXPECT_EQ(evaluate(run, {"--folder", run.output().string()}), output);
  EXPECT_EQ(output.at("windows"), 6);
  EXPECT_EQ(output.at("tokens"), 6 * 127);
  EXPECT_DOUBLE_EQ(output.at("perplexity").get<double>(),
                   std::exp(output.at("mean_nll").get<double>()));
}

TEST(Evaluate, EqualsTheReportOfTheRun) {
  const RunFolder& run = finished_run();
  const json report = json::parse(contents_of(run.directory() / "report.json"));
  const json original = of(run, "original");
  EXPECT_EQ(original, report.at("perplexity").at("before"));
  EXPECT_EQ(of(run, "output"), report.at("perplexity").at("after"));
  EXPECT_NE(original.at("mean_nll"), of(run, "output").at("mean_nll"));
}

TEST(Evaluate, PrintsALineWithoutJson) {
  const RunFolder& run = finished_run();
  EXPECT_THAT(answer_of(run.arguments("evaluate")),
              testing::MatchesRegex("perplexity [0-9.]+ \\(mean negative log-likelihood [0-9.]+, "
                                    "6 windows, 762 tokens\\)\n"));
}

TEST(Evaluate, DequantizedWeightsDifferByTheirRoundingOnly) {
  const TwoLayerModel model;
  const RunFolder run(model.path(), evaluation_settings() + Command{"output.format=dequantized"});
  run.finish(1);
  // The file holds the grid's values rounded to bfloat16, 8 bits of precision.
  EXPECT_NEAR(of(run, "run").at("mean_nll").get<double>(),
              of(run, "output").at("mean_nll").get<double>(), 1.0 / 256);
}

}  // namespace
}  // namespace quern::test
