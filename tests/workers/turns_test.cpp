#include "workers/turns.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <thread>
#include <vector>

namespace quern::test {
namespace {

TEST(Turns, ComeInTheOrderOfTheirNumbers) {
  constexpr std::size_t kThreads = 8;
  Turns turns;
  std::vector<std::size_t> order;  // whoever has the turn is alone with it
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = kThreads; i-- > 0;) {
      threads.emplace_back([&, i] {
        Turns::Turn turn(turns, i);
        turn.wait();
        order.push_back(i);
      });
    }
  }
  ASSERT_EQ(order.size(), kThreads);
  for (std::size_t i = 0; i < kThreads; ++i) EXPECT_EQ(order[i], i);
}

TEST(Turns, PassWhereAThreadFailsBeforeItsOwn) {
  Turns turns;
  bool reached = false;
  {
    const std::jthread last([&] {
      Turns::Turn turn(turns, 2);
      turn.wait();
      reached = true;
    });
    const std::jthread failing([&] {
      try {
        const Turns::Turn turn(turns, 1);
        throw std::runtime_error("before wait()");
      } catch (const std::runtime_error&) {
      }
    });
    const Turns::Turn first(turns, 0);
  }
  EXPECT_TRUE(reached);
}

}  // namespace
}  // namespace quern::test
