#include "pipeline/prediction/prediction.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tests/support/paths.h"

namespace quern::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

const json kCircumstances = {{"ranks", 2},
                             {"config", {{"quantize", {{"bits", 4}, {"damping", 0.01}}}}},
                             {"numerics", "cpu"}};

RunCost cost(double seconds, std::map<std::string, double> stages) {
  return {.seconds = seconds,
          .stages = std::move(stages),
          .state_bytes = 100,
          .output_bytes = 300,
          .host_bytes = 5000,
          .device_bytes = 7000};
}

json sample_prediction() {
  json prediction = cost_json(cost(90, {{"solve", 30}, {"load", 1}}));
  prediction["holds_for"] = kCircumstances;
  prediction["scratch"] = {{"bytes", 0}};
  prediction["assumptions"] = {"the sun shines"};
  prediction["rehearsals"] = {{"seconds", 12.0}, {"layers", {2, 6}}};
  return prediction;
}

TEST(Comparison, SetsTotalsAndStagesSideBySide) {
  const RunCost measured = cost(100, {{"solve", 25}, {"verify", 40}});
  const json result = compare(sample_prediction(), {measured, kCircumstances, true});
  EXPECT_EQ(result.at("note"), "");
  const json& time = result.at("totals").at(0);
  EXPECT_EQ(time,
            json({{"name", "time"}, {"unit", "s"}, {"predicted", 90.0}, {"measured", 100.0}}));
  EXPECT_EQ(result.at("totals").size(), 4U);
  EXPECT_EQ(result.at("totals").at(3).at("name"), "disk");
  EXPECT_EQ(result.at("totals").at(3).at("measured"), 400.0);
  std::vector<std::string> names;
  for (const json& row : result.at("stages")) names.push_back(row.at("name"));
  EXPECT_EQ(names, (std::vector<std::string>{"verify", "solve", "load"}));
  EXPECT_EQ(result.at("stages").at(0).at("predicted"), 0.0);
}

TEST(Comparison, IsLeftOutForOtherCircumstances) {
  json other = kCircumstances;
  other["ranks"] = 4;
  other["config"]["quantize"]["bits"] = 3;
  const json result = compare(sample_prediction(), {cost(1, {}), other, true});
  EXPECT_EQ(result.at("note"), "not compared: predicted for other quantize.bits, ranks");
  EXPECT_TRUE(result.at("totals").empty());
  EXPECT_TRUE(result.at("stages").empty());
}

TEST(Comparison, IsLeftOutForPartOfARun) {
  const json result = compare(sample_prediction(), {cost(1, {}), kCircumstances, false});
  EXPECT_THAT(result.at("note").get<std::string>(), HasSubstr("part of the run was there"));
  EXPECT_TRUE(result.at("totals").empty());
}

TEST(Comparison, IsNullWithoutAPrediction) {
  EXPECT_TRUE(compare(nullptr, {cost(1, {}), kCircumstances, true}).is_null());
}

TEST(Comparison, AFileThatIsNoPredictionIsANote) {
  const TemporaryDirectory folder;
  RunFile run;
  run.run.directory = folder.path();
  const MeasuredRun measured{cost(100, {}), kCircumstances, true};
  EXPECT_TRUE(compare_with_file(run, measured).is_null());
  for (const char* text : {"", "{\"seconds\": 1}", "[]"}) {
    std::ofstream(prediction_file(run)) << text;
    const json result = compare_with_file(run, measured);
    EXPECT_THAT(result.at("note").get<std::string>(), HasSubstr("prediction.json cannot be used"));
    EXPECT_TRUE(result.at("totals").empty());
  }
  std::ofstream(prediction_file(run)) << sample_prediction();
  EXPECT_EQ(compare_with_file(run, measured), compare(sample_prediction(), measured));
}

TEST(PredictionText, NamesEverything) {
  const std::string text = prediction_text(sample_prediction());
  for (const char* part :
       {"for 2 ranks, from rehearsals of 2, 6 layers that took 12.0 s", "time           1 min 30 s",
        "solve        30.0 s", "device memory  7.00 kB per rank", "host memory    5.00 kB per rank",
        "disk           0.40 kB: state 0.10 kB, output 0.30 kB", "assumed        the sun shines"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
}

}  // namespace
}  // namespace quern::test
