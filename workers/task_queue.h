#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace quern {

/// Tasks for a few threads in the background, begun in the order in which they were added. When one
/// has thrown, no further one begins. The destructor waits only for those under way.
class TaskQueue {
 public:
  explicit TaskQueue(int threads);
  ~TaskQueue();
  TaskQueue(const TaskQueue&) = delete;             // its threads work on it
  TaskQueue& operator=(const TaskQueue&) = delete;  // likewise

  /// Returns at once. Throws what an earlier task has thrown.
  void add(std::function<void()> task);
  /// Throws what a task has thrown by now.
  void check();
  /// Returns when all are done. Throws what a task has thrown.
  void wait();

 private:
  void work(const std::stop_token& stop);
  void rethrow() const;

  std::mutex mutex_;  ///< guards all below but the threads
  std::condition_variable_any changed_;
  std::deque<std::function<void()>> waiting_;
  std::size_t under_way_ = 0;
  std::exception_ptr failure_;
  std::vector<std::jthread> threads_;  // last: they end before what they use
};

}  // namespace quern
