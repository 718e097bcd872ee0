#include <gtest/gtest.h>

#include <tuple>

#include "tests/pipeline/model/golden_fisher.h"
#include "tests/pipeline/model/golden_forward.h"
#include "tests/pipeline/model/golden_values.h"
#include "tests/pipeline/model/gpu_session.h"
#include "tests/support/paths.h"

namespace quern::test {
namespace {

using Parameters = std::tuple<std::string, DType>;

/// The models whole on a GPU: in float32 within the tolerance of the CPU, in bfloat16 within that
/// of its roundings.
class GpuGolden : public testing::TestWithParam<Parameters> {
 protected:
  void SetUp() override {
    if (shared_dir().empty()) GTEST_SKIP() << kNoShared;
    if (cuda_device_count() == 0) GTEST_SKIP() << kNoGpu;
  }
  static const std::string& model() { return std::get<0>(GetParam()); }
  static DType type() { return std::get<1>(GetParam()); }
};

TEST_P(GpuGolden, ForwardAndStatisticsEqualTheReference) {
  Session session = gpu_session(type());
  expect_golden_forward(model(), session, type());
}

TEST_P(GpuGolden, SquaredGradientsEqualTheReference) {
  Session session = gpu_session(type());
  const GoldenFisher tested(model());
  EXPECT_EQ(tested.expect_golden(tested.fisher(session, 1), type()), 4);
}

INSTANTIATE_TEST_SUITE_P(Models, GpuGolden,
                         testing::Combine(testing::ValuesIn(golden_models()),
                                          testing::Values(DType::f32, DType::bf16)),
                         [](const auto& chosen) {
                           return std::get<0>(chosen.param) + "_" +
                                  std::string(dtype_name(std::get<1>(chosen.param)));
                         });

}  // namespace
}  // namespace quern::test
