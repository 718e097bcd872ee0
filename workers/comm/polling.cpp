#include "workers/comm/polling.h"

#include <unistd.h>

#include <algorithm>
#include <exception>
#include <thread>

namespace quern {

bool poll_until(const std::function<bool()>& done, Patience patience) {
  using Clock = std::chrono::steady_clock;
  using std::chrono::microseconds;
  constexpr microseconds kSpin{50};
  constexpr microseconds kShortestSleep{20};
  constexpr microseconds kLongestSleep{1000};
  constexpr int kAnswersLate = 64;  // by one part in so many of the time waited
  constexpr Clock::duration kSuspended = std::chrono::seconds(1);

  Clock::duration waited{};
  auto last = Clock::now();
  while (!done()) {
    if (waited > patience.deadline) return false;
    if (waited >= patience.eager) {
      const auto share = std::chrono::duration_cast<microseconds>(waited / kAnswersLate);
      std::this_thread::sleep_for(std::clamp(share, kShortestSleep, kLongestSleep));
    } else if (waited >= kSpin) {
      std::this_thread::yield();
    }
    const auto now = Clock::now();
    waited += std::min(now - last, kSuspended);
    last = now;
  }
  return true;
}

void exit_after(std::chrono::seconds delay, int exit_code) noexcept {
  try {
    std::thread([=] {
      std::this_thread::sleep_for(delay);
      ::_exit(exit_code);
    }).detach();
  } catch (const std::exception&) {  // no thread to be had: the caller's own way out must do
  }
}

}  // namespace quern
