#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/e2e/run_folder.h"
#include "workers/tensors/tensor_source.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

fs::path partial(const RunFolder& run) {
  return run.output().string() + ".partial";
}

/// Overwrites the first value of a bf16 tensor with infinity.
void spoil(const fs::path& model, const std::string& tensor) {
  const TensorSource source(model);
  ASSERT_EQ(source.entry(tensor).dtype, DType::bf16);
  const fs::path file = model / source.shard_name(tensor);
  std::string bytes = contents_of(file);
  bytes.replace(source.entry(tensor).begin, 2, "\x80\x7F");
  replace_contents(file, bytes);
}

TEST(ExportAhead, AFailureInTheBackgroundEndsTheRunOnAllRanks) {
  const TwoLayerModel model;
  spoil(model.path(), "lm_head.weight");  // which no layer reads
  for (const int ranks : {1, 2}) {
    const RunFolder run(model.path());
    const ProcessResult result = run_process(quern(ranks, run.quantize()));
    EXPECT_EQ(result.exit_code, 65) << result.err;
    EXPECT_THAT(result.err, HasSubstr("tensor 'lm_head.weight': 1 of"));
    EXPECT_FALSE(fs::exists(run.output()));
    EXPECT_FALSE(fs::exists(partial(run)));
  }
}

TEST(ExportAhead, BeginsAnewAfterAKillBetweenLayers) {
  const TwoLayerModel model;
  const std::vector<std::string> steps = RunFolder(model.path()).steps();
  const auto of_layer_1 = std::ranges::find_if(
      steps, [](const std::string& step) { return step.ends_with("layer-001"); });
  ASSERT_NE(of_layer_1, steps.end());
  const RunFolder run(model.path());
  const StepSignal at{.step = static_cast<int>(of_layer_1 - steps.begin()) + 1};
  ASSERT_EQ(run_process(quern_stepper(1, at, run.quantize())).signal, SIGKILL);
  EXPECT_FALSE(fs::exists(run.output()));
  EXPECT_FALSE(files_below(partial(run)).empty()) << "it had begun";
  replace_contents(partial(run) / "junk", "of another job");
  run.finish(2);
  EXPECT_FALSE(fs::exists(partial(run)));
  EXPECT_EQ(run.output_hashes(), undisturbed_output(model.path(), 1));
}

/// How many outliers a module has decides where the next one lies in the file.
TEST(ExportAhead, ATorchFileGrowsInTheOrderOfAWalkBackwards) {
  const TwoLayerModel model;
  const Command settings = squeezellm("squeezellm", {"quantize.sparsity=0.01"});
  const std::vector<std::string> steps = RunFolder(model.path(), settings).steps();
  const auto of_layer_0 = std::ranges::find_if(
      steps, [](const std::string& step) { return step.ends_with("layer-000"); });
  ASSERT_NE(of_layer_0, steps.end());
  const RunFolder run(model.path(), settings);
  const StepSignal at{.step = static_cast<int>(of_layer_0 - steps.begin()) + 1};
  ASSERT_EQ(run_process(quern_stepper(1, at, run.quantize())).signal, SIGKILL);
  const std::string begun = contents_of(partial(run) / "squeezellm.pt.tmp");
  run.finish(2);
  const std::string whole = contents_of(run.output() / "squeezellm.pt");
  EXPECT_EQ(run.output_hashes(), undisturbed_output(model.path(), 1, settings));
  EXPECT_GT(begun.size(), whole.size() / 8);
  const TensorSource source(run.output());
  const auto place = [&](int layer, const char* part) {
    return source.entry("model.layers." + std::to_string(layer) + ".mlp.up_proj." + part).begin;
  };
  EXPECT_LT(source.entry("lm_head.weight").begin, place(1, "qweight"));
  EXPECT_LT(place(1, "qweight"), place(1, "vals"));
  EXPECT_LT(place(1, "vals"), place(0, "qweight"));
}

}  // namespace
}  // namespace quern::test
