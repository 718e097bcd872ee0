#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/core/error.h"
#include "pipeline/estimate.h"
#include "tests/pipeline/small_graph.h"

namespace quern::test {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

/// 3 bits, 8 windows of 64 in micro-batches of 2: 512 tokens, 128 at once.
RunFile tables_run(const std::vector<std::string>& overrides = {}) {
  constexpr std::string_view text =
      "model: {path: m}\n"
      "calibration: {source: t.txt, samples: 8, sequence_length: 64, micro_batch: 2}\n"
      "quantize: {method: squeezellm}\n"
      "output: {path: o, format: squeezellm_safetensors}\n"
      "run: {directory: r}\n";
  return parse_run_file(text, "run.yaml", overrides).run;
}

Estimate estimate_of(const std::vector<std::string>& overrides, int ranks = 1) {
  const RunFile run = tables_run(overrides);
  const ModelGraph graph = small_graph();
  return estimate(graph, make_plan(graph, run), run, ranks);
}

std::vector<std::string> warnings(const std::vector<std::string>& overrides) {
  return make_plan(small_graph(), tables_run(overrides)).warnings;
}

constexpr std::uint64_t kSquare = 192 * 192;  ///< q, k, v, o
constexpr std::uint64_t kWide = 192 * 512;    ///< gate, up, down
constexpr std::uint64_t kWeights = 4 * kSquare + 3 * kWide;

TEST(SqueezeLlmPlan, FiguresAreThoseComputedByHand) {
  const ModelGraph graph = small_graph();
  const Plan plan = make_plan(graph, tables_run({"quantize.bits=3"}));
  const auto& bundles = plan.layers[0].bundles;
  // F of each module: two flops per weight and token.
  EXPECT_DOUBLE_EQ(bundles[0].statistics_flops, 3 * 2.0 * 512 * kSquare);
  EXPECT_DOUBLE_EQ(bundles[3].statistics_flops, 2.0 * 512 * kWide);
  EXPECT_DOUBLE_EQ(bundles[0].solve_flops, 3 * 16.0 * 8 * kSquare);
  // 18 words of 3 bits, 8 float centroids and a row pointer for each of 192 rows, three times.
  EXPECT_EQ(bundles[0].state_bytes, 3U * (18 * 192 * 4 + 192 * 8 * 4 + 193 * 4));
  EXPECT_EQ(bundles[3].state_bytes, 48U * 192 * 4 + 192 * 8 * 4 + 193 * 4);
}

TEST(SqueezeLlmPlan, OutliersTakeAValueAndAColumnEach) {
  const auto bytes = [](const std::string& sparsity) {
    const Plan plan =
        make_plan(small_graph(), tables_run({"quantize.bits=3", "quantize.sparsity=" + sparsity}));
    return plan.layers[0].bundles[1].state_bytes;
  };
  EXPECT_EQ(bytes("0.0045"), bytes("0") + 165 * 8);  // 0.45 % of 36864
  EXPECT_EQ(bytes("{sensitive: 0.001, rule: joint}"), bytes("0") + 36 * 8);
}

TEST(SqueezeLlmPlan, EstimateCoversThePassForwardAndBack) {
  const Estimate one = estimate_of({"quantize.bits=4"});
  // Forward, and twice as much backward.
  EXPECT_DOUBLE_EQ(one.forward_flops, 3 * 4 * 465567744.0);
  EXPECT_DOUBLE_EQ(one.statistics_flops, 4 * 2.0 * 512 * kWeights);
  EXPECT_DOUBLE_EQ(one.solve_flops, 4 * 16.0 * 16 * kWeights);
  EXPECT_EQ(one.weight_bytes, 442752U * 8);
  EXPECT_EQ(one.statistics_bytes, 8 * kWeights) << "of a whole layer, in 64 bits";
  EXPECT_EQ(one.solver_bytes, 16 * kWide);
  // States and gradients of all tokens, twice the work space of a micro-batch, all layer inputs.
  EXPECT_EQ(one.activation_bytes, 4U * (2 * 512 * 192 + 2 * 128 * (192 + 3 * 512) + 4 * 512 * 192));
  const Estimate three = estimate_of({"quantize.bits=4"}, 3);
  EXPECT_EQ(three.activation_bytes,
            4U * (2 * 256 * 192 + 2 * 128 * (192 + 3 * 512) + 4 * 256 * 192));
  EXPECT_EQ(three.output_bytes, one.output_bytes);
}

TEST(SqueezeLlmPlan, KeptLayerInputsStayWithinTheirBudget) {
  const std::uint64_t all = estimate_of({}).activation_bytes;
  const std::uint64_t inputs = 4U * 4 * 512 * 192;
  EXPECT_EQ(estimate_of({"run.activation_memory=300KB"}).activation_bytes, all - inputs + 300'000);
  EXPECT_EQ(estimate_of({"run.activation_memory=1GB"}).activation_bytes, all);
}

TEST(SqueezeLlmPlan, RefiningNeedsAnHOfEachModule) {
  const Estimate refined = estimate_of({"quantize.codebook_search=lnq"});
  EXPECT_EQ(refined.statistics_bytes, 8 * kWeights + 8U * (6 * 192 * 192 + 512 * 512));
  EXPECT_EQ(refined.solver_bytes, 16 * kWide + 8 * 512 * 512);
  EXPECT_DOUBLE_EQ(refined.statistics_flops,
                   4 * (2.0 * 512 * kWeights + 512.0 * (6 * 192 * 192 + 512 * 512)));
}

/// F is kept in 32 bits, H as it was summed.
TEST(SqueezeLlmPlan, StatisticsThatAreKeptAreOnDisk) {
  const auto kept = [](std::vector<std::string> overrides) {
    const std::uint64_t without = estimate_of(overrides).state_bytes;
    overrides.emplace_back("run.statistics=keep");
    return estimate_of(overrides).state_bytes - without;
  };
  EXPECT_EQ(kept({}), 4 * 4 * kWeights);
  EXPECT_EQ(kept({"quantize.codebook_search=lnq"}),
            4 * (4 * kWeights + 8U * (6 * 192 * 192 + 512 * 512)));
  const std::string over_the_model =
      "quantize.sparsity={sensitive: 0.001, rule: joint, budget: model}";
  EXPECT_EQ(kept({over_the_model}), 0U) << "on disk in any case";
  EXPECT_EQ(estimate_of({over_the_model}).state_bytes,
            estimate_of({"quantize.sparsity={sensitive: 0.001, rule: joint}"}).state_bytes +
                4 * 4 * kWeights);
}

/// bf16 for what is not packed; words and tables, and the sparse part only if there is one.
TEST(SqueezeLlmPlan, OutputIsWhatTheFormatHolds) {
  const std::uint64_t rest = 2U * (2 * 4096 * 192 + 192 + 4 * 384);
  const std::uint64_t words = 4U * (4 * 24 * 192 + 2 * 24 * 512 + 64 * 192);
  const std::uint64_t entries = 16U * (5 * 192 + 2 * 512);
  EXPECT_EQ(estimate_of({"quantize.bits=4"}).output_bytes, rest + 4 * (words + 4 * entries));
  EXPECT_EQ(estimate_of({"quantize.bits=4", "quantize.codebook_type=float16"}).output_bytes,
            rest + 4 * (words + 2 * entries));
  const std::uint64_t sparse = 4U * (5 * 193 + 2 * 513) + 8U * (4 * 165 + 3 * 442);
  EXPECT_EQ(estimate_of({"quantize.bits=4", "quantize.sparsity=0.0045"}).output_bytes,
            rest + 4 * (words + 4 * entries + sparse));
  EXPECT_EQ(estimate_of({"quantize.target_bits=3.5"}).output_bytes,
            rest + 4 * (4 * (kSquare * 7 / 16) + 3 * (kWide * 7 / 16)));
}

TEST(SqueezeLlmPlan, WidthsOtherThan32CannotBePacked) {
  ModelGraph graph = small_graph();
  LayerInput& input = graph.layers[1].inputs[3];
  input.features = input.modules[0].in_features = 500;
  for (const char* format : {"squeezellm", "squeezellm_safetensors"}) {
    try {
      make_plan(graph, tables_run({std::string("output.format=") + format}));
      ADD_FAILURE() << "nothing was thrown";
    } catch (const InputError& error) {
      EXPECT_THAT(error.what(),
                  AllOf(HasSubstr("'model.layers.1.mlp.down_proj'"), HasSubstr("500 in features"),
                        HasSubstr("32"), HasSubstr("dequantized")));
    }
  }
  make_plan(graph, tables_run({"output.format=dequantized"}));
  make_plan(graph, tables_run({"quantize.rules=[{match: '.*1.mlp.down_proj', skip: true}]"}));
}

TEST(SqueezeLlmPlan, WarnsOfBitsThatSqueezeLlmsKernelsDoNotTake) {
  EXPECT_THAT(warnings({"output.format=squeezellm", "quantize.bits=2"}),
              ElementsAre(AllOf(HasSubstr("SqueezeLLM's kernels"), HasSubstr("2 bits"))));
  EXPECT_THAT(warnings({"output.format=squeezellm", "quantize.bits=3"}), IsEmpty());
  EXPECT_THAT(warnings({"output.format=squeezellm", "quantize.bits=4"}), IsEmpty());
  EXPECT_THAT(warnings({"quantize.bits=2"}), IsEmpty()) << "read by no kernel of theirs";
}

TEST(SqueezeLlmPlan, ATargetBelowTwoBitsEverywhereIsRefused) {
  // 2 bits and tables of 4 x 32: 2.667 for 192 columns, 2.25 for 512.
  const double fewest = (2.0 * kWeights + 128.0 * (5 * 192 + 2 * 512)) / kWeights;
  try {
    estimate_of({"quantize.target_bits=2.4"});
    ADD_FAILURE() << "nothing was thrown";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("quantize.target_bits"), HasSubstr("2.4"),
                                    HasSubstr(fmt::format("{:.3f}", fewest))));
  }
  EXPECT_GT(estimate_of({fmt::format("quantize.target_bits={:.3f}", fewest + 0.001)}).output_bytes,
            0U);
}

}  // namespace
}  // namespace quern::test
