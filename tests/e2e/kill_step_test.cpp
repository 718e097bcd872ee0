#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/kill_check.h"

namespace quern::test {
namespace {

const KillCheck& check() {
  static const KillCheck kCheck;
  return kCheck;
}

TEST(KillAtAStep, OfEveryKind) {
  const std::vector<int> steps = telling_steps(check().steps(), 60);
  ASSERT_GT(steps.size(), 20U);
  for (const int step : steps) check().kill_and_resume(step, 1, step % 4 == 0 ? 2 : 1);
}

TEST(KillAtAStep, OfOneRankOfTwo) {
  // Rank 1 owns some of the bundles and every second shard.
  for (const int step : {3, 25, 60}) check().kill_and_resume(step, 2, 1);
}

}  // namespace
}  // namespace quern::test
