#include <gtest/gtest.h>

#include "tests/e2e/squeezellm_kills.h"

namespace quern::test {
namespace {

/// Steps that leave the same state as the one before them are left out.
void kill_at_each(const KillCheck& check) {
  const auto& steps = check.steps();
  ASSERT_GT(steps.size(), 250U);
  for (std::size_t i = 0; i < steps.size(); ++i) {
    if (kind_of(steps[i]).empty()) continue;
    check.kill_and_resume(static_cast<int>(i) + 1, 1, 1 + static_cast<int>(i) % 3);
  }
}

TEST(KillOfSqueezeLlmAtEachStep, SolvedOnTheWay) {
  kill_at_each(KillCheck(solved_on_the_way()));
}

TEST(KillOfSqueezeLlmAtEachStep, WithKeptStatistics) {
  kill_at_each(KillCheck(with_kept_statistics()));
}

TEST(KillOfSqueezeLlmAtEachStep, WithPassingStatistics) {
  kill_at_each(KillCheck(with_passing_statistics()));
}

}  // namespace
}  // namespace quern::test
