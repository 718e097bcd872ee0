#include "tests/pipeline/model/golden_fisher.h"

#include <gtest/gtest.h>

#include "tests/pipeline/model/golden_values.h"
#include "tests/pipeline/model/rounded_backend.h"
#include "tests/support/mpi_test_main.h"
#include "tests/support/paths.h"
#include "tests/workers/test_session.h"

namespace quern::test {
namespace {

class GoldenFisherTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (shared_dir().empty()) GTEST_SKIP() << kNoShared;
  }
};

TEST_P(GoldenFisherTest, SquaredGradientsEqualTheReference) {
  Session session = quiet_session(&mpi_environment());
  const GoldenFisher tested(GetParam());
  std::int64_t compared = tested.expect_golden(tested.fisher(session, 1), DType::f32);
  session.communicator->sum(std::span(&compared, 1));
  EXPECT_EQ(compared, 4);
}

/// The roundings of bfloat16 alone take less than is allowed to a GPU.
TEST_P(GoldenFisherTest, WithRoundedActivationsWithinTheToleranceOfTheirType) {
  Session alone = quiet_session(nullptr, 1);
  alone.backend = make_rounded_backend(1, DType::bf16);
  const GoldenFisher tested(GetParam());
  EXPECT_EQ(tested.expect_golden(tested.fisher(alone, 1), DType::bf16), 4);
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenFisherTest, testing::ValuesIn(golden_models()),
                         [](const auto& model) { return model.param; });

/// 3: the last micro-batch is short, and there are two.
TEST(GoldenFisherSums, TheBitsDoNotDependOnTheRanks) {
  if (shared_dir().empty()) GTEST_SKIP() << kNoShared;
  Session session = quiet_session(&mpi_environment());
  Session alone = quiet_session(nullptr, 1);
  const GoldenFisher tested("llama3m");
  for (const std::int64_t micro_batch : {1, 3}) {
    const auto together = tested.fisher(session, micro_batch);
    const auto single = tested.fisher(alone, micro_batch);
    EXPECT_EQ(single.size(), 21U);
    tested.expect_golden(single, DType::f32);
    auto owned = static_cast<std::int64_t>(together.size());
    session.communicator->sum(std::span(&owned, 1));
    EXPECT_EQ(owned, 21);
    for (const auto& [name, tensor] : together) {
      EXPECT_EQ(tensor.bytes, single.at(name).bytes) << name << ", micro-batch " << micro_batch;
    }
  }
}

}  // namespace
}  // namespace quern::test
