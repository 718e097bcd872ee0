#include <gtest/gtest.h>

#include "tests/e2e/lost_rank_check.h"

namespace quern::test {
namespace {

TEST(LostRank, StoppedCostsOnlyTime) {
  expect_lost_rank_to_cost_only_time(SIGSTOP);
}

TEST(LostRank, KilledCostsOnlyTime) {
  expect_lost_rank_to_cost_only_time(SIGKILL);
}

}  // namespace
}  // namespace quern::test
