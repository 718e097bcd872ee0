#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/jobs/finished_run.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;

using nlohmann::json;
using testing::HasSubstr;

/// A plan of the small model made from its config.json alone. The run folder of these tests
/// calibrates on T = 7 x 64 = 448 tokens, 4 bits, groups of 64.
class Plan : public testing::Test {
 protected:
  Plan() : run_(model_.path()) {
    fs::copy(source_dir() / "tests/data/llama3m/config.json", model_.path());
  }
  json plan(int ranks) const {
    return json_answer_of(run_.arguments("plan") +
                          Command{"--json", "--ranks", std::to_string(ranks)});
  }

  TemporaryDirectory model_;
  RunFolder run_;
};

TEST_F(Plan, CountsTheWorkOfOneModule) {
  const json bundle = plan(1).at("layers").at(2).at("bundles").at(3);
  EXPECT_EQ(bundle.at("input"), "mlp_hidden");
  EXPECT_EQ(bundle.at("name"), "layers/layer-002/bundle-03.h5");
  const json module = bundle.at("modules").at(0);
  EXPECT_EQ(module, json({{"name", "model.layers.2.mlp.down_proj"},
                          {"out_features", 192},
                          {"in_features", 512},
                          {"bits", 4},
                          {"group_size", 64},
                          {"symmetric", true}}));
  // K = 512, N = 192: T K^2; N K^2 + K^3 / 3.
  EXPECT_DOUBLE_EQ(bundle.at("statistics_flops"), 117'440'512);
  EXPECT_DOUBLE_EQ(bundle.at("solve_flops"), 50'331'648 + 134'217'728 / 3.0);
  // Words 64 x 192 of 4 bytes, scales and zeros 8 x 192 of 2 + 1, groups of 512 columns of 4.
  EXPECT_EQ(bundle.at("state_bytes"), 49'152 + 4'608 + 2'048);
}

TEST_F(Plan, CountsTheWorkOfALayer) {
  const json layer = plan(1).at("layers").at(0);
  // Four matrices of 192 x 192, three of 512 x 192, two norms.
  EXPECT_EQ(layer.at("weights"), 442'368 + 2 * 192);
  // Two per weight and token; attention 4 T x 192 over 32 positions on average.
  EXPECT_DOUBLE_EQ(layer.at("forward_flops"), 2.0 * 442'368 * 448 + 4.0 * 448 * 192 * 32);
}

TEST_F(Plan, GivesTheLongestBundleToTheFirstFreeRank) {
  for (const json& layer : plan(3).at("layers")) {
    std::vector<int> owners;
    for (const json& bundle : layer.at("bundles")) owners.push_back(bundle.at("owner"));
    // Solve Mflop: attention 23.6, its output 9.4, mlp 40.1, mlp_hidden 95.1.
    EXPECT_EQ(owners, (std::vector{2, 2, 1, 0}));
  }
  EXPECT_EQ(plan(3).at("ranks"), 3);
}

TEST_F(Plan, TotalsAreThoseOfTheParts) {
  const json whole = plan(2);
  double gram = 0;
  double solve = 0;
  std::uint64_t state = 0;
  for (const json& layer : whole.at("layers")) {
    for (const json& bundle : layer.at("bundles")) {
      gram += bundle.at("statistics_flops").get<double>();
      solve += bundle.at("solve_flops").get<double>();
      state += bundle.at("state_bytes").get<std::uint64_t>();
    }
  }
  EXPECT_EQ(whole.at("layers").size(), 4U);
  EXPECT_DOUBLE_EQ(whole.at("flops").at("statistics"), gram);
  EXPECT_DOUBLE_EQ(whole.at("flops").at("solve"), solve);
  EXPECT_EQ(whole.at("disk").at("state"), state);
  EXPECT_GT(whole.at("memory_per_rank").at("peak"), 0);
}

TEST_F(Plan, TextNamesEveryBundleModuleAndWarning) {
  const std::string text = answer_of(run_.arguments("plan") + Command{"--ranks", "3"});
  EXPECT_THAT(text, HasSubstr("layers/layer-003/bundle-03.h5"));
  EXPECT_THAT(text, HasSubstr("model.layers.3.mlp.down_proj [192, 512] 4 bits, group 64"));
  EXPECT_THAT(text, HasSubstr("total, 3 ranks"));
  const std::string odd =
      answer_of(run_.arguments("plan", {"quantize.bits=3", "quantize.symmetric=false"}));
  EXPECT_THAT(odd, HasSubstr("warning: vLLM's GPTQ kernels do not take 3 bits"));
  EXPECT_THAT(odd, HasSubstr("asymmetric grids"));
  EXPECT_THAT(answer_of(run_.arguments("plan", {"run.statistics=keep"})),
              HasSubstr("warning: run.statistics: H measured behind quantized layers"));
}

TEST_F(Plan, PredictsTheMemoryOfAGpu) {
  const json gpu = plan(1).at("gpu_memory_per_rank");
  EXPECT_EQ(gpu.at("weights"), 2 * 2 * 442'752);
  EXPECT_EQ(gpu.at("statistics"), 8 * 512 * 512);
  EXPECT_EQ(gpu.at("allowed"), nullptr);
  EXPECT_EQ(gpu.at("micro_batches_on_device"), gpu.at("micro_batches"));
  const auto states = gpu.at("most").get<std::int64_t>() - gpu.at("least").get<std::int64_t>();
  const auto rounds = gpu.at("micro_batches").get<std::int64_t>();
  EXPECT_EQ(states % rounds, 0);
  const std::string one = std::to_string(gpu.at("least").get<std::int64_t>() + states / rounds);
  EXPECT_THAT(answer_of(run_.arguments("plan", {"run.gpu_memory=" + one})),
              HasSubstr("1 of " + std::to_string(rounds) + " micro-batches on the device"));
  EXPECT_THAT(answer_of(run_.arguments("plan", {"run.gpu_memory=100MB"})),
              HasSubstr("run.gpu_memory allows 0.10 GB"));
  EXPECT_THAT(answer_of(run_.arguments("plan", {"run.device=cpu"})),
              testing::Not(HasSubstr("  gpu ")));
}

TEST_F(Plan, PredictsTheSizeOfTheOutput) {
  const RunFolder& finished = finished_run();
  const json predicted = json_answer_of(finished.arguments("plan") + Command{"--json"});
  std::uint64_t written = 0;
  for (const auto& entry : fs::directory_iterator(finished.output())) {
    if (entry.path().extension() == ".safetensors") written += entry.file_size();
  }
  const auto bytes = predicted.at("disk").at("output").get<double>();
  EXPECT_NEAR(bytes, static_cast<double>(written), 0.03 * bytes);
}

}  // namespace
}  // namespace quern::test
