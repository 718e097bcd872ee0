#include "workers/task_queue.h"

#include <algorithm>
#include <utility>

namespace quern {

TaskQueue::TaskQueue(int threads) {
  for (int i = 0; i < std::max(1, threads); ++i) {
    threads_.emplace_back([this](const std::stop_token& stop) { work(stop); });
  }
}

TaskQueue::~TaskQueue() {
  for (std::jthread& thread : threads_) thread.request_stop();  // all, before one is waited for
}

void TaskQueue::add(std::function<void()> task) {
  const std::lock_guard lock(mutex_);
  rethrow();
  waiting_.push_back(std::move(task));
  changed_.notify_all();
}

void TaskQueue::check() {
  const std::lock_guard lock(mutex_);
  rethrow();
}

void TaskQueue::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return under_way_ == 0 && (waiting_.empty() || failure_); });
  rethrow();
}

void TaskQueue::work(const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  while (changed_.wait(lock, stop, [&] { return !waiting_.empty() && !failure_; })) {
    if (stop.stop_requested()) return;
    const std::function<void()> task = std::move(waiting_.front());
    waiting_.pop_front();
    ++under_way_;
    lock.unlock();
    std::exception_ptr failure;
    try {
      task();
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    --under_way_;
    if (failure && !failure_) failure_ = failure;
    changed_.notify_all();
  }
}

void TaskQueue::rethrow() const {
  if (failure_) std::rethrow_exception(failure_);
}

}  // namespace quern
