#include "workers/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace quern::test {
namespace {

TEST(RunParallel, CallsEveryTaskOnce) {
  for (const int threads : {0, 1, 3, 64}) {
    for (const std::size_t count : {0U, 1U, 2U, 100U}) {
      std::vector<std::atomic<int>> calls(count);
      run_parallel(count, threads, [&](std::size_t i) { ++calls[i]; });
      for (const auto& of_task : calls) EXPECT_EQ(of_task, 1);
    }
  }
}

TEST(RunParallel, ThrowsTheFirstFailureAndBeginsNoMore) {
  for (const int threads : {1, 4}) {
    std::atomic<std::size_t> begun = 0;
    try {
      run_parallel(10000, threads, [&](std::size_t i) {
        ++begun;
        if (i >= 5) throw std::runtime_error(std::to_string(i));
      });
      ADD_FAILURE() << "no exception";
    } catch (const std::runtime_error& error) {
      EXPECT_STREQ(error.what(), "5");
    }
    EXPECT_LT(begun, 10000U);
  }
}

TEST(RunParallel, UsesNoOtherThreadForOne) {
  const auto own = std::this_thread::get_id();
  run_parallel(5, 1, [&](std::size_t) { EXPECT_EQ(std::this_thread::get_id(), own); });
}

}  // namespace
}  // namespace quern::test
