#include <gtest/gtest.h>

#include <cmath>
#include <iostream>
#include <tuple>

#include "kernels/cuda_backend.h"
#include "tests/e2e/run_folder.h"

namespace quern::test {
namespace {

using Parameters = std::tuple<std::string, int>;

double perplexity_after(const RunFolder& run) {
  return run.report().at("perplexity").at("after").at("perplexity").get<double>();
}

/// llama20m quantized and evaluated, whole runs.
class GpuPerplexity : public testing::TestWithParam<Parameters> {
 protected:
  void SetUp() override {
    if (shared_dir().empty()) GTEST_SKIP() << kNoShared;
    if (cuda_device_count() == 0) GTEST_SKIP() << "needs a GPU, found none";
  }

  static Command settings(const Command& device) {
    const auto& [method, bits] = GetParam();
    const Command common = {"calibration.samples=32",
                            "calibration.sequence_length=256",
                            "calibration.max_characters=400000",
                            "evaluate.source=" + (shared_dir() / "data/eval.txt").string(),
                            "evaluate.max_characters=400000",
                            "evaluate.sequence_length=256",
                            "evaluate.samples=32",
                            "quantize.bits=" + std::to_string(bits),
                            "run.threads=0"};
    const Command chosen = method == "gptq" ? Command{} : squeezellm("squeezellm_safetensors");
    return chosen + common + device;
  }
  static double perplexity_on(const Command& device) {
    const RunFolder run(shared_dir() / "models/llama20m", settings(device));
    run.finish(1);
    return perplexity_after(run);
  }
};

/// Within 0.1 % where it computes in the CPU's type, within 1 % in the model's.
TEST_P(GpuPerplexity, IsThatOfTheCpu) {
  const double cpu = perplexity_on({"run.device=cpu"});
  const double gpu = perplexity_on({"run.device=cuda", "run.activation_type=float32"});
  EXPECT_NEAR(gpu, cpu, 1e-3 * cpu);
  const double bf16 = perplexity_on({"run.device=cuda", "run.activation_type=bfloat16"});
  EXPECT_NEAR(bf16, cpu, 1e-2 * cpu);
  std::cout << "perplexity: cpu " << cpu << ", gpu float32 " << 100 * (gpu / cpu - 1)
            << " % above, gpu bfloat16 " << 100 * (bf16 / cpu - 1) << " %\n";
}

INSTANTIATE_TEST_SUITE_P(Llama20m, GpuPerplexity,
                         testing::Combine(testing::Values("gptq", "squeezellm"),
                                          testing::Values(2, 3, 4, 8)),
                         [](const auto& chosen) {
                           return std::get<0>(chosen.param) + "_" +
                                  std::to_string(std::get<1>(chosen.param)) + "bit";
                         });

}  // namespace
}  // namespace quern::test
