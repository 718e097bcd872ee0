#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "pipeline/config/method_set.h"
#include "pipeline/config/resolved.h"
#include "tests/pipeline/config/run_texts.h"

namespace quern::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

/// The values of `quantize`, on line 5 from column 12, and what parsing says about them.
struct Case {
  std::string quantize;
  std::string start;
  std::string words;
};

void expect_messages(const std::vector<Case>& cases) {
  for (const Case& each : cases) {
    EXPECT_THAT(complaint(run_text("quantize: {" + each.quantize + "}\n")),
                AllOf(StartsWith("run.yaml:" + each.start), HasSubstr(each.words)))
        << each.quantize;
  }
}

Sparsity sparsity_of(const std::string& value) {
  return parse(run_text(), {"quantize={method: squeezellm, sparsity: " + value + "}"})
      .run.quantize.sparsity;
}

TEST(MethodSet, NamesItsMethods) {
  EXPECT_EQ(MethodSet({Method::rtn, Method::gptq}).names(), "rtn or gptq");
  EXPECT_TRUE(MethodSet().holds_all());
  EXPECT_FALSE(MethodSet::none().meets(MethodSet()));
  EXPECT_TRUE(MethodSet({Method::gptq}).meets({Method::gptq, Method::squeezellm}));
  EXPECT_FALSE(MethodSet({Method::rtn}).meets({Method::gptq, Method::squeezellm}));
}

TEST(MethodKeys, AValueWithoutEffectIsRefused) {
  expect_messages({
      {"method: squeezellm, group_size: 64", "5:44: quantize.group_size:",
       "no effect on quantize.method squeezellm; expected method rtn or gptq, or 128"},
      {"method: squeezellm, symmetric: false", "5:43: quantize.symmetric:", "rtn or gptq, or true"},
      {"method: squeezellm, scale_search: absmax", "5:46: quantize.scale_search:", "no effect"},
      {"method: squeezellm, act_order: full", "5:43: quantize.act_order:", "choose method gptq"},
      {"method: squeezellm, damping: 0.1", "5:41: quantize.damping:", "choose method gptq"},
      {"method: squeezellm, propagation: original", "5:45: quantize.propagation:", "no effect"},
      {"method: squeezellm, true_sequential: false",
       "5:49: quantize.true_sequential:", "no effect"},
      {"method: squeezellm, lm_head: true", "5:41: quantize.lm_head:", "or false"},
      {"sparsity: 0.1", "5:22: quantize.sparsity:", "choose method squeezellm"},
      {"codebook_type: float16", "5:27: quantize.codebook_type:", "or \"float32\""},
      {"method: rtn, codebook_search: lnq", "5:42: quantize.codebook_search:", "method rtn"},
      {"target_bits: 3", "5:25: quantize.target_bits:", "expected method squeezellm;"},
      {"method: squeezellm, rules: [{match: a, group_size: 64}]",
       "5:63: quantize.rules[0].group_size:", "no effect on quantize.method squeezellm"},
      {"method: squeezellm, rules: [{match: a, bits: 4, symmetric: true}]",
       "5:71: quantize.rules[0].symmetric:", "expected method rtn or gptq"},
  });
}

TEST(MethodKeys, DefaultsAreNothingToComplainAbout) {
  EXPECT_EQ(complaint(run_text("quantize: {method: squeezellm, group_size: 128, symmetric: true, "
                               "lm_head: false, damping: 0.01, true_sequential: true}\n")),
            "");
  EXPECT_EQ(complaint(run_text("quantize: {method: gptq, sparsity: 0, codebook_type: float32}\n")),
            "");
}

TEST(MethodKeys, SqueezeLlmNeedsCalibration) {
  EXPECT_THAT(complaint("model: {path: m}\noutput: {path: o}\nrun: {directory: r}\n"
                        "quantize: {method: squeezellm}\n"),
              AllOf(StartsWith("run.yaml:1:1: calibration.source: missing"),
                    HasSubstr("quantize.method squeezellm needs calibration text")));
}

TEST(MethodKeys, SparsityIsSplitAsInThePaper) {
  EXPECT_EQ(sparsity_of("0"), Sparsity{});
  EXPECT_EQ(sparsity_of("0.0002"), (Sparsity{.sensitive = 0.0002}));
  EXPECT_EQ(sparsity_of("0.0005"), (Sparsity{.sensitive = 0.0005}));
  EXPECT_EQ(sparsity_of("0.0045"), (Sparsity{.sensitive = 0.0005, .magnitude = 0.004}));
  EXPECT_EQ(sparsity_of("0.5"), (Sparsity{.sensitive = 0.0005, .magnitude = 0.4995}));
  EXPECT_EQ(sparsity_of("{magnitude: 1e-3, rule: paper, budget: module}"),
            (Sparsity{.sensitive = 0.0, .magnitude = 0.001}));
  EXPECT_EQ(sparsity_of("{sensitive: 0.5, rule: joint, budget: model}"),
            (Sparsity{.sensitive = 0.5,
                      .magnitude = 0.0,
                      .rule = OutlierSelection::joint,
                      .budget = OutlierBudget::model}));
  EXPECT_THAT(complaint(run_text("quantize:\n  method: squeezellm\n  sparsity:\n"
                                 "    magnitude: 0.1\n    budget: model\n")),
              AllOf(StartsWith("run.yaml:9:13: quantize.sparsity.budget: no effect on rule paper"),
                    HasSubstr("choose rule joint")));
}

TEST(MethodKeys, TheFormatFollowsTheMethod) {
  const auto format = [](const std::vector<std::string>& overrides) {
    return parse(run_text(), overrides).run.output.format;
  };
  EXPECT_EQ(format({}), OutputFormat::gptq);
  EXPECT_EQ(format({"quantize.method=rtn"}), OutputFormat::gptq);
  EXPECT_EQ(format({"quantize.method=squeezellm"}), OutputFormat::squeezellm);
  EXPECT_EQ(format({"quantize.method=squeezellm", "output.format=dequantized"}),
            OutputFormat::dequantized);
  EXPECT_EQ(format({"quantize.method=squeezellm", "output.format=squeezellm_safetensors"}),
            OutputFormat::squeezellm_safetensors);
  EXPECT_THAT(complaint(run_text(), {"quantize.method=squeezellm", "output.format=gptq"}),
              HasSubstr("output.format: gptq cannot hold what quantize.method squeezellm makes"));
  for (const char* name : {"squeezellm", "squeezellm_safetensors"}) {
    EXPECT_THAT(complaint(run_text(), {std::string("output.format=") + name}),
                AllOf(HasSubstr("cannot hold what quantize.method gptq makes"),
                      HasSubstr("expected gptq or dequantized")));
  }
}

TEST(MethodKeys, ThePtFileHasOneBitWidth) {
  expect_messages({
      {"method: squeezellm, target_bits: 3.5",
       "5:45: quantize.target_bits:", "choose output.format squeezellm_safetensors or dequantized"},
      {"method: squeezellm, bits: 3, rules: [{match: a, bits: 3}, {match: b, bits: 4}]",
       "5:87: quantize.rules[1].bits:", "expected 3, as quantize.bits"},
      {"method: squeezellm, rules: [{match: a, bits: 8}]",
       "5:57: quantize.rules[0].bits:", "squeezellm_safetensors"},
  });
  EXPECT_EQ(complaint(run_text("quantize: {method: squeezellm, rules: [{match: a, skip: true}, "
                               "{match: b, bits: 4}]}\n")),
            "");
  for (const char* format : {"squeezellm_safetensors", "dequantized"}) {
    const std::string output = std::string("output.format=") + format;
    EXPECT_EQ(complaint(run_text(), {output, "quantize={method: squeezellm, target_bits: 3.5}"}),
              "");
    EXPECT_EQ(complaint(run_text(), {output,
                                     "quantize={method: squeezellm, bits: 5, rules: "
                                     "[{match: a, bits: 7}]}"}),
              "");
  }
}

TEST(MethodKeys, TargetBitsReplaceBits) {
  EXPECT_THAT(
      complaint(run_text("quantize: {method: squeezellm, bits: 4, target_bits: 3.5}\n"),
                {"output.format=squeezellm_safetensors"}),
      AllOf(StartsWith("run.yaml:5:38: quantize.bits: quantize.target_bits chooses the bits"),
            HasSubstr("remove bits or target_bits")));
  EXPECT_THAT(complaint(run_text("quantize: {method: squeezellm, target_bits: 3.5, rules: [{match: "
                                 "a, bits: 4}]}\n"),
                        {"output.format=squeezellm_safetensors"}),
              AllOf(HasSubstr("quantize.rules[0].bits: quantize.target_bits chooses the bits"),
                    HasSubstr("remove bits or target_bits")));
}

TEST(MethodKeys, RunKeysForStatistics) {
  const RunConfig run =
      parse(run_text(), {"run.statistics=keep", "run.statistics_directory=runs/shared/",
                         "run.activation_memory=3GiB"})
          .run.run;
  EXPECT_EQ(run.statistics, Statistics::keep);
  EXPECT_EQ(run.statistics_directory, "runs/shared");
  EXPECT_EQ(run.activation_bytes, 3'221'225'472U);
  EXPECT_EQ(parse(run_text()).run.run.statistics, Statistics::discard);
  EXPECT_EQ(parse(run_text()).run.run.statistics_directory, "");
  EXPECT_EQ(parse(run_text()).run.run.activation_bytes, 0U);
}

TEST(MethodKeys, MemoryOfAGpuIsNoPartOfWhatARunIs) {
  const RunFile run = parse(run_text(), {"run.gpu_memory=24GB"}).run;
  EXPECT_EQ(run.run.gpu_memory_bytes, 24'000'000'000U);
  EXPECT_EQ(parse(run_text()).run.run.gpu_memory_bytes, 0U);
  EXPECT_EQ(identity_json(run), identity_json(parse(run_text()).run));
}

}  // namespace
}  // namespace quern::test
