#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/e2e/run_folder.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

/// A run whose model folder holds config.json alone, until the weights are fetched.
class PlanMeasure : public testing::Test {
 protected:
  PlanMeasure() : run_(model_.path()) { fs::copy(whole() / "config.json", model_.path()); }

  static fs::path whole() { return source_dir() / "tests/data/llama3m"; }

  void fetch_model() const {
    fs::copy(whole(), model_.path(),
             fs::copy_options::recursive | fs::copy_options::overwrite_existing);
  }

  json measure(int ranks, const Command& settings = {}) const {
    const ProcessResult result = run_process(
        quern(ranks, run_.arguments("plan", settings) + Command{"--measure", "--json"}));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return json::parse(result.out, nullptr, false);
  }

  void expect_nothing_but(const std::vector<std::string>& names) const {
    std::vector<std::string> found;
    for (const fs::path& file : files_below(run_.path())) {
      found.push_back(file.lexically_relative(run_.path()).string());
    }
    EXPECT_EQ(found, names);
    EXPECT_FALSE(fs::exists(run_.directory().string() + ".rehearsal"));
    EXPECT_FALSE(fs::exists(run_.output().string() + ".rehearsal"));
  }

  TemporaryDirectory model_;
  RunFolder run_;
};

TEST_F(PlanMeasure, NeedsNoWeightsAndLeavesThePredictionAlone) {
  for (const int ranks : {1, 2}) {
    const json prediction = measure(ranks);
    EXPECT_THAT(prediction.at("rehearsals").at("layers").get<std::vector<int>>(),
                ElementsAre(2, 4));
    EXPECT_EQ(prediction.at("holds_for").at("ranks"), ranks);
    EXPECT_GT(prediction.at("seconds").get<double>(), 0);
    EXPECT_GT(prediction.at("memory").at("peak_rank_bytes").get<double>(), 1e6);
    EXPECT_THAT(prediction.at("assumptions").dump(), HasSubstr("random token ids"));
    expect_nothing_but({"run/prediction.json", "run.yaml"});
  }
}

TEST_F(PlanMeasure, TheReportComparesAndTheOutputIsTheSame) {
  const json predicted = measure(2);
  fetch_model();
  EXPECT_THAT(run_.finish(2).out, HasSubstr("  predicted   time "));
  const json compared = run_.report().at("prediction");
  EXPECT_EQ(compared.at("note"), "");
  ASSERT_EQ(compared.at("totals").size(), 3U);
  const json& disk = compared.at("totals").at(2);
  EXPECT_EQ(disk.at("name"), "disk");
  EXPECT_NEAR(disk.at("predicted").get<double>(), disk.at("measured").get<double>(),
              0.01 * disk.at("measured").get<double>());
  EXPECT_EQ(compared.at("totals").at(0).at("predicted"), predicted.at("seconds"));
  EXPECT_EQ(compared.at("totals").at(0).at("measured"), run_.report().at("seconds"));
  EXPECT_THAT(contents_of(run_.directory() / "report.html"), HasSubstr("Predicted and measured"));
  EXPECT_EQ(run_.output_hashes(), undisturbed_output(model_.path(), 1));
}

TEST_F(PlanMeasure, WhatCannotBeComparedIsNot) {
  measure(1);
  fetch_model();
  run_.finish(2);
  const json other = run_.report().at("prediction");
  EXPECT_THAT(other.at("note").get<std::string>(), HasSubstr("predicted for other ranks"));
  EXPECT_TRUE(other.at("totals").empty());
  run_.finish(1);
  EXPECT_THAT(run_.report().at("prediction").at("note").get<std::string>(),
              HasSubstr("part of the run was there"));
}

TEST_F(PlanMeasure, KnowsTheOtherWalksAndTheEvaluation) {
  fetch_model();
  const Command evaluated = {
      "evaluate.source=" + (source_dir() / "tests/data/evaluation.txt").string(),
      "evaluate.sequence_length=64", "evaluate.samples=4"};
  for (const Command& settings :
       {squeezellm("squeezellm", {"quantize.bits=3", "quantize.sparsity=0.0045"}),
        Command{"quantize.method=rtn"}, Command{"quantize.propagation=original"}}) {
    const json prediction = measure(1, settings + evaluated);
    EXPECT_THAT(prediction.at("stages").dump(), HasSubstr("evaluate"));
    EXPECT_EQ(prediction.at("assumptions").dump().find("random token ids"), std::string::npos);
    expect_nothing_but({"run/prediction.json", "run.yaml"});
  }
}

TEST_F(PlanMeasure, ASignalLeavesNothing) {
  const StepSignal at{.step = 40, .signal = SIGTERM};
  const Command arguments = run_.arguments("plan") + Command{"--measure"};
  const ProcessResult result = run_process(quern_stepper(1, at, arguments));
  EXPECT_EQ(result.exit_code, 75) << result.err;
  expect_nothing_but({"run.yaml"});
}

TEST_F(PlanMeasure, RefusesASweep) {
  const ProcessResult result =
      run_process(quern(1, run_.arguments("plan", {"sweep.bits=[3, 4]"}) + Command{"--measure"}));
  EXPECT_EQ(result.exit_code, 64);
  EXPECT_THAT(result.err, HasSubstr("sweep: plan --measure predicts one run"));
  expect_nothing_but({"run.yaml"});
}

}  // namespace
}  // namespace quern::test
