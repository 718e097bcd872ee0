#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/cuda_backend.h"
#include "tests/e2e/kill_check.h"
#include "tests/e2e/lost_rank_check.h"

namespace quern::test {
namespace {

struct Method {
  std::string name;
  Command settings;
};

std::vector<Method> methods() {
  const Command gpu = {"run.device=cuda"};
  return {{"gptq", gpu},
          {"squeezellm", gpu + squeezellm("squeezellm_safetensors",
                                          {"quantize.bits=3", "quantize.sparsity=0.0045"})}};
}

class GpuRun : public testing::TestWithParam<Method> {
 protected:
  void SetUp() override {
    if (cuda_device_count() == 0) GTEST_SKIP() << "needs a GPU, found none";
  }
  static const Command& settings() { return GetParam().settings; }
};

TEST_P(GpuRun, WritesTheSameBytesOnAnyNumberOfRanks) {
  const TwoLayerModel model;
  const auto one = undisturbed_output(model.path(), 1, settings());
  ASSERT_THAT(one, testing::Contains(testing::Key("SHA256SUMS")));
  for (const int ranks : {2, 3}) {
    EXPECT_EQ(undisturbed_output(model.path(), ranks, settings()), one) << ranks << " ranks";
  }
}

TEST_P(GpuRun, KilledCostsOnlyTime) {
  const KillCheck check(settings());
  const int steps = static_cast<int>(check.steps().size());
  check.kill_and_resume(steps / 3, 1, 2);
  check.kill_and_resume(3 * steps / 4, 1, 3);
  check.kill_and_resume(3, 2, 1);
  check.kill_and_resume(steps / 8, 2, 3);  // the second rank takes fewer than half of them
}

INSTANTIATE_TEST_SUITE_P(Methods, GpuRun, testing::ValuesIn(methods()),
                         [](const auto& method) { return method.param.name; });

TEST(GpuLostRank, StoppedOrKilledCostsOnlyTime) {
  if (cuda_device_count() == 0) GTEST_SKIP() << "needs a GPU, found none";
  for (const int signal : {SIGSTOP, SIGKILL}) {
    SCOPED_TRACE(testing::Message() << "signal " << signal);
    expect_lost_rank_to_cost_only_time(signal, {"run.device=cuda"});
  }
}

}  // namespace
}  // namespace quern::test
