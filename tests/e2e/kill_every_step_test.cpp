#include <gtest/gtest.h>

#include "tests/e2e/kill_check.h"

namespace quern::test {
namespace {

TEST(KillAtAStep, AtEachOfThem) {
  const KillCheck check;
  const int steps = static_cast<int>(check.steps().size());
  ASSERT_GT(steps, 100);
  for (int step = 1; step <= steps; ++step) check.kill_and_resume(step, 1, 2 + step % 2);
}

}  // namespace
}  // namespace quern::test
