#pragma once

#include <chrono>
#include <functional>

namespace quern {

/// How to wait for something that can only be asked.
struct Patience {
  /// So long the processor is only yielded between questions; then it sleeps between them, at first
  /// for 20 us and at most for 1 ms: ranks may be more than cores, and others need this one.
  std::chrono::microseconds eager;
  std::chrono::milliseconds deadline;
};

/// Asks until done() holds; false when the deadline has passed. Time in which this process was
/// stopped (a suspended job) does not count.
bool poll_until(const std::function<bool()>& done, Patience patience);

/// Ends the process after the delay, whatever its other threads are stuck in.
void exit_after(std::chrono::seconds delay, int exit_code) noexcept;

}  // namespace quern
