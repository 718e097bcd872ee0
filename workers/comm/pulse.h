#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace quern {

/// Calls a function at once and then once per interval, from a thread of its own, while it lives.
class Pulse {
 public:
  Pulse(std::function<void()> beat, std::chrono::milliseconds interval);

 private:
  void run(const std::stop_token& stop, const std::function<void()>& beat,
           std::chrono::milliseconds interval);

  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::jthread thread_;  // last: its destructor stops and joins
};

}  // namespace quern
