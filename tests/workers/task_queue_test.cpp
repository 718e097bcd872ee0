#include "workers/task_queue.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <stdexcept>
#include <thread>
#include <vector>

namespace quern::test {
namespace {

TEST(TaskQueue, RunsEveryTaskOnceAndInOrderOnOneThread) {
  TaskQueue queue(0);
  queue.wait();
  std::vector<int> done;
  for (int i = 0; i < 100; ++i) queue.add([&, i] { done.push_back(i); });
  queue.wait();
  ASSERT_EQ(done.size(), 100U);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(done[static_cast<std::size_t>(i)], i);
  queue.add([&] { done.clear(); });
  queue.wait();
  EXPECT_TRUE(done.empty());
}

TEST(TaskQueue, RunsAsManyTasksAtOnceAsItHasThreads) {
  TaskQueue queue(2);
  std::promise<void> first;
  std::promise<void> second;
  queue.add([&] {
    first.set_value();
    second.get_future().wait();
  });
  queue.add([&] {
    first.get_future().wait();
    second.set_value();
  });
  queue.wait();
}

TEST(TaskQueue, ThrowsAFailureAndBeginsNothingMore) {
  TaskQueue queue(1);
  std::atomic<int> begun = 0;
  std::promise<void> go;
  queue.add([&] {
    go.get_future().wait();
    throw std::runtime_error("broken");
  });
  queue.add([&] { ++begun; });
  go.set_value();
  EXPECT_THROW(queue.wait(), std::runtime_error);
  EXPECT_THROW(queue.add([&] { ++begun; }), std::runtime_error);
  EXPECT_THROW(queue.wait(), std::runtime_error);
  EXPECT_EQ(begun, 0);
}

TEST(TaskQueue, DropsWhatHasNotBegunWhenItGoes) {
  using namespace std::chrono_literals;
  std::atomic<int> begun = 0;
  {
    TaskQueue queue(2);
    for (int i = 0; i < 100; ++i) {
      queue.add([&] {
        ++begun;
        std::this_thread::sleep_for(50ms);
      });
    }
  }
  EXPECT_LT(begun, 100);
}

}  // namespace
}  // namespace quern::test
