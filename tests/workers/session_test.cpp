#include "workers/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "tests/support/mpi_test_main.h"
#include "tests/workers/test_session.h"

namespace quern::test {
namespace {

using namespace std::chrono_literals;

TEST(Session, KnowsItsRankAndTheRoot) {
  Session session = quiet_session(&mpi_environment());
  EXPECT_EQ(session.rank(), mpi_environment().rank());
  EXPECT_EQ(session.ranks(), mpi_environment().size());
  EXPECT_EQ(session.is_root(), session.rank() == 0);
  EXPECT_FALSE(session.leaving_together);
}

TEST(Session, OneRankNeedsNoMpi) {
  Session session = quiet_session();
  EXPECT_EQ(session.rank(), 0);
  EXPECT_EQ(session.ranks(), 1);
  std::int64_t value = 7;
  session.communicator->sum(std::span(&value, 1));
  EXPECT_EQ(value, 7);
}

TEST(Session, MovesAndCommunicatesFromItsBackendsMemory) {
  Session first = quiet_session(&mpi_environment());
  Session session = std::move(first);
  Memory& memory = session.backend->memory();
  HostTensor host(DType::i64, {3});
  for (std::int64_t& value : host.as<std::int64_t>()) value = session.rank() + 1;
  const int last = session.ranks() - 1;
  Tensor device = memory.to_device(host);
  session.communicator->reduce_sum(device.view(), last);
  if (session.rank() == last) {
    const std::int64_t expected = session.ranks() * (session.ranks() + 1) / 2;
    EXPECT_THAT(memory.to_host(device.view()).as<std::int64_t>(), testing::Each(expected));
  }
}

TEST(Heartbeat, TellsTheListenerWhatIsInHand) {
  Heartbeat heartbeat;
  heartbeat.beat();  // nobody listens
  std::vector<std::string> heard;
  heartbeat.tell([&](const std::string& activity) { heard.push_back(activity); });
  heartbeat.note("layer 1");
  heartbeat.note("layer 2");
  heartbeat.beat();
  heartbeat.tell({});
  heartbeat.beat();
  EXPECT_THAT(heard, testing::ElementsAre("layer 2"));
}

TEST(Heartbeat, GivesBackWhoWasToldBefore) {
  Heartbeat heartbeat;
  std::vector<std::string> heard;
  const auto listener = [&](const std::string& who) {
    return [&, who](const std::string& activity) { heard.push_back(who + " " + activity); };
  };
  EXPECT_FALSE(heartbeat.tell(listener("first")));
  auto first = heartbeat.tell(listener("second"));
  ASSERT_TRUE(first);
  heartbeat.note("solve");
  heartbeat.beat();
  EXPECT_THAT(heard, testing::ElementsAre("second solve"));
  heartbeat.tell(std::move(first));
  heartbeat.beat();
  EXPECT_THAT(heard, testing::ElementsAre("second solve", "first solve"));
}

TEST(Heartbeat, BeatsOnTheWatchdogsThread) {
  Session session = quiet_session(&mpi_environment());
  std::atomic<bool> heard = false;
  const std::thread::id own = std::this_thread::get_id();
  session.enter("solve layers/layer-001");
  session.heartbeat->tell([&](const std::string& activity) {
    if (activity == "solve layers/layer-001" && std::this_thread::get_id() != own) heard = true;
  });
  const auto deadline = std::chrono::steady_clock::now() + 60s;
  while (!heard && std::chrono::steady_clock::now() < deadline) std::this_thread::sleep_for(20ms);
  session.heartbeat->tell({});
  EXPECT_TRUE(heard);
  session.communicator->barrier();
}

}  // namespace
}  // namespace quern::test
