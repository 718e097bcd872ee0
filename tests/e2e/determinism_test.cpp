#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/utsname.h>

#include "tests/e2e/run_folder.h"

namespace quern::test {
namespace {

using Hashes = std::map<std::string, std::string>;

struct Variant {
  std::string name;
  Command settings;
};

std::string name_of(const testing::TestParamInfo<Variant>& info) {
  return info.param.name;
}

const std::filesystem::path kModel = source_dir() / "tests/data/llama3m";

class SameBytes : public testing::TestWithParam<Variant> {};

TEST_P(SameBytes, OnOneAndThreeRanks) {
  const Hashes one = undisturbed_output(kModel, 1, GetParam().settings);
  ASSERT_THAT(one, testing::Contains(testing::Key("SHA256SUMS")));
  EXPECT_EQ(undisturbed_output(kModel, 3, GetParam().settings), one);
}

INSTANTIATE_TEST_SUITE_P(
    Variants, SameBytes,
    testing::Values(Variant{"AllOfALayerAtOnce", {"quantize.true_sequential=false"}},
                    Variant{"OriginalPropagation", {"quantize.propagation=original"}},
                    Variant{"RoundToNearest", {"quantize.method=rtn"}},
                    Variant{"Float64", {"run.activation_type=float64"}},
                    Variant{
                        "AsymmetricFullOrder",
                        {"quantize.symmetric=false", "quantize.act_order=full", "quantize.bits=3"}},
                    Variant{"Dequantized", {"output.format=dequantized", "quantize.bits=5"}},
                    Variant{"HeadRulesAndSearch",
                            {"quantize.lm_head=true", "quantize.scale_search=weighted",
                             "quantize.act_order=group_aware",
                             "quantize.rules=[{match: '.*layers\\.1\\..*', bits: 8}, "
                             "{match: '.*layers\\.2\\.mlp.*', skip: true}]"}}),
    name_of);

TEST(Determinism, OnOneToFourRanksAndAnyThreads) {
  const Hashes one = undisturbed_output(kModel, 1);
  EXPECT_THAT(one, testing::Contains(testing::Key("model-00002-of-00003.safetensors")));
  EXPECT_EQ(undisturbed_output(kModel, 1, {"run.threads=2"}), one);
  for (const int ranks : {2, 3, 4}) {
    SCOPED_TRACE(testing::Message() << ranks << " ranks");
    EXPECT_EQ(undisturbed_output(kModel, ranks), one);
  }
}

TEST(Determinism, WhateverTheMicroBatchesLeaveToEachRank) {
  // Five sequences in micro-batches of three: the last is short, and ranks 2 and 3 get none.
  const Command settings = {"calibration.samples=5", "calibration.micro_batch=3"};
  const Hashes one = undisturbed_output(kModel, 1, settings);
  EXPECT_EQ(undisturbed_output(kModel, 4, settings), one);
}

TEST(Determinism, WithGroupedQueriesAndASlidingWindow) {
  if (shared_dir().empty()) GTEST_SKIP() << kNoShared;
  const std::filesystem::path model = shared_dir() / "models/mistral9m";
  // Longer than the window of 256.
  const Command settings = {"calibration.samples=4", "calibration.sequence_length=300",
                            "calibration.micro_batch=1"};
  const Hashes one = undisturbed_output(model, 1, settings);
  ASSERT_THAT(one, testing::Contains(testing::Key("SHA256SUMS")));
  for (const int ranks : {2, 3, 4}) {
    EXPECT_EQ(undisturbed_output(model, ranks, settings), one) << ranks << " ranks";
  }
  EXPECT_EQ(undisturbed_output(model, 3, settings + Command{"run.threads=2"}), one);
}

/// The codes that OpenBLAS's kernels for a processor lead to, as shards of the output.
Hashes shards_with_kernels_for(const char* processor, const Command& settings) {
  const RunFolder run(kModel, settings);
  const Command kernels = {"env", std::string("OPENBLAS_CORETYPE=") + processor};
  const ProcessResult result = run_process(kernels + quern(1, run.quantize()));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  Hashes shards = run.output_hashes();
  std::erase_if(shards, [](const auto& file) { return !file.first.ends_with(".safetensors"); });
  return shards;
}

TEST(Determinism, OnAnyProcessorInFloat64) {
  utsname machine{};
  ASSERT_EQ(uname(&machine), 0);
  if (machine.machine != std::string("x86_64")) {
    GTEST_SKIP() << "needs two sets of kernels of OpenBLAS that any processor of a kind runs";
  }
  for (const Command& method : {Command{"quantize.bits=3"}, squeezellm("squeezellm_safetensors")}) {
    const Command float64 = method + Command{"run.activation_type=float64"};
    const Hashes shards = shards_with_kernels_for("Prescott", float64);
    EXPECT_FALSE(shards.empty());
    EXPECT_EQ(shards_with_kernels_for("Nehalem", float64), shards);
  }
  // Products in float32 differ, or nothing was shown.
  EXPECT_NE(shards_with_kernels_for("Prescott", {}), shards_with_kernels_for("Nehalem", {}));
}

TEST(Determinism, ButOtherSeedsAndBitsDiffer) {
  const Hashes one = undisturbed_output(kModel, 1, {"output.shard_size=5GB"});
  for (const char* setting : {"calibration.seed=1", "quantize.bits=3"}) {
    const Hashes other = undisturbed_output(kModel, 1, {"output.shard_size=5GB", setting});
    EXPECT_NE(other.at("model.safetensors"), one.at("model.safetensors")) << setting;
  }
}

}  // namespace
}  // namespace quern::test
