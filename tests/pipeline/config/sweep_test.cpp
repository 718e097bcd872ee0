#include "pipeline/config/sweep.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/pipeline/config/run_texts.h"

namespace quern::test {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

TEST(Sweep, EveryKey) {
  const SweepConfig sweep = parse(run_text("sweep:\n"
                                           "  method: [rtn, squeezellm]\n"
                                           "  bits: 3\n"
                                           "  group_size: [-1, 64]\n"
                                           "  sparsity: [0, {sensitive: 0.001, rule: joint}]\n"
                                           "  points:\n"
                                           "    - {method: squeezellm, bits: 4, sparsity: 0.0045}\n"
                                           "    - {method: gptq, group_size: 32}\n"
                                           "  exclude:\n"
                                           "    - {method: rtn, group_size: -1}\n"))
                                .run.sweep;
  EXPECT_THAT(sweep.method, ElementsAre(Method::rtn, Method::squeezellm));
  EXPECT_THAT(sweep.bits, ElementsAre(3));
  EXPECT_THAT(sweep.group_size, ElementsAre(-1, 64));
  EXPECT_THAT(sweep.sparsity, ElementsAre(Sparsity{}, Sparsity{.sensitive = 0.001,
                                                               .magnitude = 0.0,
                                                               .rule = OutlierSelection::joint}));
  EXPECT_THAT(
      sweep.points,
      ElementsAre(
          SweepPoint{.method = Method::squeezellm,
                     .bits = 4,
                     .group_size = {},
                     .sparsity = Sparsity{.sensitive = 0.0005, .magnitude = 0.004}},
          SweepPoint{.method = Method::gptq, .bits = {}, .group_size = 32, .sparsity = {}}));
  EXPECT_THAT(
      sweep.exclude,
      ElementsAre(SweepPoint{.method = Method::rtn, .bits = {}, .group_size = -1, .sparsity = {}}));
}

TEST(Sweep, IsAskedForByAnyList) {
  EXPECT_FALSE(asks_for_sweep(parse(run_text()).run));
  EXPECT_FALSE(asks_for_sweep(parse(run_text("sweep: {bits: []}\n")).run));
  EXPECT_TRUE(asks_for_sweep(parse(run_text("sweep: {bits: 3}\n")).run));
  EXPECT_TRUE(asks_for_sweep(parse(run_text("sweep: {points: [{bits: 3}]}\n")).run));
}

TEST(Sweep, KeysOfOtherMethodsReturnToTheirDefaults) {
  const RunFile run =
      parse(run_text("quantize: {group_size: 64, damping: 0.1, sparsity: 0.1, propagation: "
                     "original, rules: [{match: a, group_size: 32}]}\n"
                     "sweep: {method: [gptq, squeezellm]}\n"))
          .run;
  const RunFile grid = at_point(run, {.method = Method::gptq,
                                      .bits = 3,
                                      .group_size = 128,
                                      .sparsity = Sparsity{.sensitive = 0.1}});
  EXPECT_FALSE(asks_for_sweep(grid));
  EXPECT_EQ(grid.quantize.grid, (GridSpec{3, 128, true, ScaleSearch::weighted}));
  EXPECT_EQ(grid.quantize.damping, 0.1);
  EXPECT_FALSE(grid.quantize.true_sequential);
  EXPECT_EQ(grid.quantize.sparsity, Sparsity{});
  EXPECT_EQ(grid.quantize.rules.at(0).group_size, 32);
  EXPECT_EQ(grid.output.format, OutputFormat::gptq);

  const RunFile tables =
      at_point(run, {.method = Method::squeezellm, .bits = {}, .group_size = {}, .sparsity = {}});
  EXPECT_EQ(tables.quantize.grid, (GridSpec{4, 128, true, ScaleSearch::weighted}));
  EXPECT_EQ(tables.quantize.damping, 0.01);
  EXPECT_EQ(tables.quantize.propagation, Propagation::quantized);
  EXPECT_TRUE(tables.quantize.true_sequential);
  EXPECT_EQ(tables.quantize.sparsity.total(), 0.1);
  EXPECT_EQ(tables.quantize.rules.at(0).group_size, std::nullopt);
  EXPECT_EQ(tables.output.format, OutputFormat::squeezellm);
}

TEST(Sweep, TheFormatGivesWayWhereItDoesNotFit) {
  const auto format = [](const std::vector<std::string>& overrides, Method method) {
    const RunFile run = parse(run_text("sweep: {method: [gptq, squeezellm]}\n"), overrides).run;
    return at_point(run, {.method = method, .bits = {}, .group_size = {}, .sparsity = {}})
        .output.format;
  };
  EXPECT_EQ(format({"output.format=dequantized"}, Method::squeezellm), OutputFormat::dequantized);
  EXPECT_EQ(format({"output.format=squeezellm_safetensors"}, Method::gptq), OutputFormat::gptq);
  EXPECT_EQ(format({"output.format=squeezellm_safetensors"}, Method::squeezellm),
            OutputFormat::squeezellm_safetensors);
  EXPECT_EQ(format({"quantize.rules=[{match: a, bits: 8}]"}, Method::squeezellm),
            OutputFormat::squeezellm_safetensors);
}

/// What stands in the sections `quantize` (line 5) and `sweep` (line 6), and the complaint.
struct Case {
  std::string quantize;
  std::string sweep;
  std::string start;
  std::string words;
};

TEST(Sweep, MistakesHaveThePlaceOfTheValue) {
  const std::vector<Case> cases{
      {"bits: 4", "bits: [3, 5]", "6:19: quantize.bits:", "cannot pack 5 bits"},
      {"bits: 5", "method: [rtn, gptq]", "5:18: quantize.bits:", "cannot pack 5 bits"},
      {"bits: 4", "points: [{bits: 8}, {bits: 6}]", "6:36: quantize.bits:", "cannot pack 6"},
      {"bits: 4", "method: [gptq], sparsity: [0.1]",
       "6:35: sweep.sparsity:", "which are of method gptq; expected a point of method squeezellm"},
      {"method: squeezellm", "bits: 3, group_size: [64]",
       "6:30: sweep.group_size:", "expected a point of method rtn or gptq"},
      {"act_order: full", "method: [rtn, squeezellm]",
       "5:23: quantize.act_order:", "which are of method rtn or squeezellm"},
      {"rules: [{match: a, bits: 3, symmetric: true}]", "method: squeezellm",
       "5:51: quantize.rules[0].symmetric:", "no effect on the points"},
      {"bits: 4", "points: [{method: squeezellm, group_size: 64}]",
       "6:51: sweep.points[0].group_size:", "no effect on method squeezellm"},
      {"bits: 4", "points: [{}]", "6:18: sweep.points[0]:", "sets nothing"},
      {"bits: 4", "bits: [3, 4], exclude: [{bits: 8}]",
       "6:33: sweep.exclude[0]:", "excludes nothing"},
      {"bits: 4", "bits: [3, 4], exclude: [{method: gptq}]", "6:8: sweep:", "no point remains"},
      {"bits: 4", "exclude: [{bits: 4}]", "6:19: sweep.exclude[0]:", "excludes nothing"},
      {"target_bits: 3", "method: squeezellm, bits: [3, 4]",
       "6:36: quantize.bits:", "chooses the bits of each module"},
  };
  for (const Case& each : cases) {
    EXPECT_THAT(
        complaint(run_text("quantize: {" + each.quantize + "}\nsweep: {" + each.sweep + "}\n")),
        AllOf(StartsWith("run.yaml:" + each.start), HasSubstr(each.words)))
        << each.sweep;
  }
}

TEST(Sweep, AnExcludedPointNeedNotWork) {
  EXPECT_EQ(complaint(run_text("quantize: {group_size: 64, sparsity: 0.1}\n"
                               "sweep: {method: [gptq, squeezellm], bits: [3, 5], exclude: "
                               "[{method: gptq, bits: 5}]}\n")),
            "");
}

TEST(Sweep, PointsWithoutStatisticsNeedNoCalibration) {
  const std::string text = "model: {path: m}\noutput: {path: o}\nrun: {directory: r}\n";
  EXPECT_EQ(complaint(text + "sweep: {method: rtn, bits: [3, 4]}\n"), "");
  EXPECT_THAT(complaint(text + "sweep: {method: [rtn, squeezellm]}\n"),
              HasSubstr("quantize.method squeezellm needs calibration text"));
}

TEST(Sweep, IsBounded) {
  std::string bits = "4";
  std::string sizes = "32";
  for (int i = 0; i < 40; ++i) {
    bits += ", 4";
    sizes += ", 32";
  }
  const std::string text = run_text("sweep: {bits: [" + bits + "], group_size: [" + sizes + "]}\n");
  EXPECT_THAT(
      complaint(text),
      HasSubstr("5:8: sweep: the product of the lists is too large; expected at most 1000"));
}

}  // namespace
}  // namespace quern::test
