#include "pipeline/sweep_points.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "kernels/core/error.h"
#include "pipeline/config/resolved.h"
#include "tests/pipeline/config/run_texts.h"

namespace quern::test {
namespace {

using testing::ElementsAre;

std::vector<SweepRun> expanded(const std::string& more) {
  return expand_sweep(parse(run_text(more)).run);
}

std::vector<std::string> names(const std::string& more) {
  std::vector<std::string> result;
  for (const SweepRun& run : expanded(more)) result.push_back(run.name);
  return result;
}

TEST(SweepPoints, AreTheProductOfTheListsThenThePoints) {
  EXPECT_THAT(names("sweep: {bits: [3, 4], group_size: [128, -1], points: [{bits: 8}, {method: "
                    "rtn, group_size: 32}]}\n"),
              ElementsAre("gptq-b3-g128", "gptq-b3-row", "gptq-b4-g128", "gptq-b4-row",
                          "gptq-b8-g128", "rtn-b4-g32"));
  EXPECT_THAT(names("sweep: {points: [{bits: 2}]}\n"), ElementsAre("gptq-b2-g128"));
}

TEST(SweepPoints, AMethodIgnoresWhatItDoesNotKnow) {
  EXPECT_THAT(names("quantize: {group_size: 64}\n"
                    "sweep: {method: [gptq, squeezellm], bits: [3, 4], sparsity: [0, 0.0045, "
                    "{sensitive: 0.0045, rule: joint, budget: model}]}\n"),
              ElementsAre("gptq-b3-g64", "gptq-b4-g64", "squeezellm-b3", "squeezellm-b3-s0.0045",
                          "squeezellm-b3-s0.0045+0-joint-model", "squeezellm-b4",
                          "squeezellm-b4-s0.0045", "squeezellm-b4-s0.0045+0-joint-model"));
}

TEST(SweepPoints, ExcludedAndRepeatedOnesAreLeftOut) {
  EXPECT_THAT(names("sweep: {method: [rtn, gptq], bits: [3, 4, 3], exclude: [{method: rtn, bits: "
                    "4}], points: [{bits: 4}]}\n"),
              ElementsAre("rtn-b3-g128", "gptq-b3-g128", "gptq-b4-g128"));
  // A group size that its method ignores is no reason to exclude a point.
  EXPECT_THAT(names("sweep: {method: [gptq, squeezellm], exclude: [{group_size: 128}]}\n"),
              ElementsAre("squeezellm-b4"));
}

TEST(SweepPoints, NamesTellSparsitiesApart) {
  EXPECT_THAT(names("quantize: {method: squeezellm, bits: 3}\n"
                    "sweep: {sparsity: [0.0002, 0.0005, 0.0045, {magnitude: 0.0045}, {sensitive: "
                    "0.0045}, {sensitive: 0.0005, magnitude: 0.004, rule: joint}]}\n"),
              ElementsAre("squeezellm-b3-s0.0002", "squeezellm-b3-s0.0005", "squeezellm-b3-s0.0045",
                          "squeezellm-b3-s0+0.0045", "squeezellm-b3-s0.0045+0",
                          "squeezellm-b3-s0.0045-joint"));
}

TEST(SweepPoints, EachHasFoldersOfItsOwnAndSharesTheStatistics) {
  for (const SweepRun& run : expanded("sweep: {method: [gptq, squeezellm], bits: [3, 4]}\n")) {
    EXPECT_EQ(run.config.run.directory, "runs/m/" + run.name);
    EXPECT_EQ(run.config.output.path, "out/m/" + run.name);
    EXPECT_EQ(run.config.run.statistics_directory, "runs/m/statistics");
    EXPECT_EQ(run.config.run.statistics, Statistics::keep);
    EXPECT_EQ(run.config.model.path, "models/m");
  }
  const RunFile given =
      parse(run_text("sweep: {bits: 3}\n"), {"run.statistics_directory=elsewhere"}).run;
  EXPECT_EQ(expand_sweep(given).at(0).config.run.statistics_directory, "elsewhere");
}

TEST(SweepPoints, EachIsARunFileThatParses) {
  std::set<std::string> identities;
  const auto runs = expanded(
      "quantize: {group_size: 64, propagation: original, rules: [{match: a, group_size: 32}]}\n"
      "sweep: {method: [rtn, gptq, squeezellm], bits: [2, 4], sparsity: [0, 0.001]}\n");
  EXPECT_EQ(runs.size(), 8U);
  for (const SweepRun& run : runs) {
    const nlohmann::json resolved = resolved_json(run.config);
    EXPECT_EQ(resolved_json(parse(resolved.dump()).run), resolved) << run.name;
    EXPECT_FALSE(resolved.contains("sweep"));
    identities.insert(identity_json(run.config).dump());
  }
  EXPECT_EQ(identities.size(), runs.size());
}

TEST(SweepPoints, FormatsFollowTheMethod) {
  const auto runs = expanded("sweep: {method: [gptq, squeezellm]}\n");
  EXPECT_EQ(runs.at(0).config.output.format, OutputFormat::gptq);
  EXPECT_EQ(runs.at(1).config.output.format, OutputFormat::squeezellm);
}

TEST(SweepPoints, SettingsAreAllSetAndReportedWhereKnown) {
  const auto runs = expanded("sweep: {method: [gptq, squeezellm], sparsity: [0.0045]}\n");
  for (const SweepRun& run : runs) {
    EXPECT_TRUE(run.settings.method && run.settings.bits && run.settings.group_size &&
                run.settings.sparsity);
  }
  EXPECT_EQ(settings_json(runs.at(0)),
            nlohmann::json::parse(R"({"method": "gptq", "bits": 4, "group_size": 128})"));
  EXPECT_EQ(settings_json(runs.at(1)), nlohmann::json::parse(R"({
    "method": "squeezellm", "bits": 4,
    "sparsity": {"sensitive": 0.0005, "magnitude": 0.004, "rule": "paper", "budget": "module"}})"));

  const RunFile target = parse(run_text("sweep: {sparsity: [0, 0.0045]}\n"),
                               {"quantize={method: squeezellm, target_bits: 3.5}",
                                "output.format=squeezellm_safetensors"})
                             .run;
  const auto targets = expand_sweep(target);
  EXPECT_EQ(targets.at(1).name, "squeezellm-t3.5-s0.0045");
  EXPECT_EQ(settings_json(targets.at(0)).at("target_bits"), 3.5);
  EXPECT_FALSE(settings_json(targets.at(0)).contains("bits"));
}

TEST(SweepPoints, NoneIsAnError) {
  EXPECT_THROW(expanded(""), ConfigError);
  EXPECT_THROW(expanded("sweep: {bits: []}\n"), ConfigError);
}

}  // namespace
}  // namespace quern::test
