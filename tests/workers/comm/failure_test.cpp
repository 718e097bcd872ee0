#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "kernels/core/error.h"
#include "tests/support/host_memory.h"
#include "tests/support/mpi_test_main.h"
#include "workers/comm/watchdog.h"

namespace quern::test {
namespace {

using namespace std::chrono_literals;
using testing::AllOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

TEST(DeadlineTest, AnAbsentRankIsAnErrorThatNamesTheOperation) {
  HostMemory memory;
  MpiEnvironment& mpi = mpi_environment();
  const auto healthy = mpi.make_communicator(memory, 60s);
  {
    const auto ranks = mpi.make_communicator(memory, 1s);
    std::vector<std::int64_t> values(3, 1);
    if (mpi.rank() != 1) {
      EXPECT_THAT([&] { ranks->sum(values); }, ThrowsMessage<CommunicationError>(AllOf(
                                                   HasSubstr("sum of 24 bytes"), HasSubstr("1 s"),
                                                   HasSubstr("not every rank"))));
      EXPECT_THAT([&] { ranks->barrier(); },
                  ThrowsMessage<CommunicationError>(HasSubstr("an earlier collective failed")));
      EXPECT_EQ(values, std::vector<std::int64_t>(3, 1));
    }
    healthy->barrier();
  }
  std::vector<std::int64_t> ones{1};
  healthy->sum(ones);
  EXPECT_EQ(ones[0], mpi.size());
}

TEST(DeadlineTest, ARankThatIsMerelySlowIsNone) {
  HostMemory memory;
  const auto ranks = mpi_environment().make_communicator(memory, 30s);
  if (ranks->rank() == 1) std::this_thread::sleep_for(1500ms);
  std::vector<std::int64_t> ones{1};
  ranks->sum(ones);
  EXPECT_EQ(ones[0], ranks->size());
}

TEST(EnvironmentTest, ThereIsOneInAProcess) {
  mpi_environment();
  EXPECT_THROW(MpiEnvironment(), InternalError);
}

TEST(EnvironmentTest, RefusesAPieceThatMpiCannotCount) {
  HostMemory memory;
  for (const std::size_t piece : {std::size_t{0}, std::size_t{7}, std::size_t{1} << 31}) {
    EXPECT_THROW(mpi_environment().make_communicator(memory, 1s, piece), InternalError);
  }
}

TEST(WatchdogLifeTest, RanksMayLeaveInAnyOrder) {
  for (int latest = 0; latest < mpi_environment().size(); ++latest) {
    std::atomic<int> beats{0};
    const auto watchdog = make_mpi_watchdog(
        {.interval = 20ms, .silence = 20s, .on_beat = [&] { ++beats; }, .on_lost_rank = {}});
    watchdog->enter(std::string(1000, 'x'));
    if (mpi_environment().rank() == latest) std::this_thread::sleep_for(200ms);
    while (beats == 0) std::this_thread::sleep_for(1ms);
  }
}

TEST(WatchdogLifeTest, WorksBesideCollectives) {
  HostMemory memory;
  const auto ranks = mpi_environment().make_communicator(memory, 60s);
  const auto watchdog =
      make_mpi_watchdog({.interval = 1ms, .silence = 20s, .on_beat = {}, .on_lost_rank = {}});
  for (int round = 0; round < 200; ++round) {
    watchdog->enter("round " + std::to_string(round));
    std::vector<std::int64_t> values(1000, round);
    ranks->sum(values);
    ASSERT_EQ(values, std::vector<std::int64_t>(1000, std::int64_t{round} * ranks->size()));
  }
}

TEST(WatchdogLifeTest, RefusesASilenceThatOneLateBeatWouldBreak) {
  EXPECT_THROW(
      make_mpi_watchdog({.interval = 500ms, .silence = 1s, .on_beat = {}, .on_lost_rank = {}}),
      InternalError);
}

TEST(SelfWatchdogTest, OnlyBeats) {
  std::atomic<int> beats{0};
  const auto watchdog = make_self_watchdog(
      {.interval = 5ms, .silence = 1ms, .on_beat = [&] { ++beats; }, .on_lost_rank = {}});
  watchdog->enter("alone");
  while (beats < 3) std::this_thread::sleep_for(1ms);
}

}  // namespace
}  // namespace quern::test
