#include <gtest/gtest.h>

#include "tests/pipeline/model/golden_forward.h"
#include "tests/pipeline/model/golden_values.h"
#include "tests/pipeline/model/rounded_backend.h"
#include "tests/support/paths.h"
#include "tests/workers/test_session.h"

namespace quern::test {
namespace {

class Golden : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (shared_dir().empty()) GTEST_SKIP() << kNoShared;
  }
};

TEST_P(Golden, ForwardAndStatisticsEqualTheReference) {
  Session session = quiet_session();
  expect_golden_forward(GetParam(), session, DType::f32);
}

/// The roundings of bfloat16 alone take less than is allowed to a GPU.
TEST_P(Golden, WithRoundedActivationsWithinTheToleranceOfTheirType) {
  Session session = quiet_session();
  session.backend = make_rounded_backend(session.threads, DType::bf16);
  expect_golden_forward(GetParam(), session, DType::bf16);
}

INSTANTIATE_TEST_SUITE_P(Models, Golden, testing::ValuesIn(golden_models()),
                         [](const auto& model) { return model.param; });

}  // namespace
}  // namespace quern::test
