#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "tests/e2e/squeezellm_kills.h"

namespace quern::test {
namespace {

/// Numbers of the steps around the moment at which a file of each kind gets its name, once early
/// and once late in the run.
std::vector<int> naming_steps(const std::vector<std::string>& steps) {
  std::map<std::string, std::vector<int>> places;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const std::string kind = kind_of(steps[i]);
    if (kind.find(" rename ") == std::string::npos) continue;
    places[kind].push_back(static_cast<int>(i) + 1);
  }
  std::set<int> chosen;
  for (const auto& [kind, numbers] : places) {
    chosen.insert(kind.starts_with("before") ? numbers.front() : numbers.back());
  }
  return {chosen.begin(), chosen.end()};
}

TEST(KillOfSqueezeLlm, BetweenTheFilesOfEachStage) {
  const KillCheck check(with_kept_statistics());
  const std::vector<int> steps = naming_steps(check.steps());
  ASSERT_GT(steps.size(), 12U);
  for (const int step : steps) check.kill_and_resume(step, 1, 1 + step % 3);
}

TEST(KillOfSqueezeLlm, WhileItWalksBack) {
  const KillCheck check(solved_on_the_way());
  const auto& steps = check.steps();
  int bundle = 0;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    if (kind_of(steps[i]) != "after rename bundle-.h") continue;
    if (++bundle % 3 == 0) check.kill_and_resume(static_cast<int>(i) + 1, 1, 2);
  }
  EXPECT_EQ(bundle, 8);
}

TEST(KillOfSqueezeLlm, OfOneRankOfTwo) {
  const KillCheck check(with_passing_statistics());
  for (const int step : {9, 41}) check.kill_and_resume(step, 2, 3);
}

}  // namespace
}  // namespace quern::test
