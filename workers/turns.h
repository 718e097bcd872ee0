#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>

namespace quern {

/// Lets threads do something one after another by number, whichever comes first.
class Turns {
 public:
  /// A thread's turn. It ends with this object, not before those with smaller numbers.
  class Turn {
   public:
    /// Every number from 0 on is taken once.
    Turn(Turns& turns, std::size_t number) : turns_(turns), number_(number) {}
    ~Turn() {
      wait();
      {
        const std::lock_guard lock(turns_.mutex_);
        ++turns_.next_;
      }
      turns_.changed_.notify_all();
    }
    Turn(const Turn&) = delete;             // a turn ends once
    Turn& operator=(const Turn&) = delete;  // likewise

    /// Returns when all smaller numbers are through.
    void wait() {
      std::unique_lock lock(turns_.mutex_);
      turns_.changed_.wait(lock, [&] { return turns_.next_ == number_; });
    }

   private:
    Turns& turns_;
    std::size_t number_;
  };

 private:
  std::mutex mutex_;  ///< guards next_
  std::condition_variable changed_;
  std::size_t next_ = 0;
};

}  // namespace quern
