#pragma once

#include <chrono>
#include <map>
#include <string>
#include <string_view>

#include "workers/trace.h"

namespace quern {

/// Seconds spent per named part of a run on this rank, in a tree of one level. Each lap is a span
/// of the trace too, if there is one.
class Stopwatch {
 public:
  /// trace: outlives this object; nullptr: none.
  explicit Stopwatch(Trace* trace = nullptr) : trace_(trace) {}

  /// Adds the time from construction to destruction to a part.
  class Lap {
   public:
    Lap(Stopwatch& watch, std::string_view part)
        : span_(watch.trace_, part), watch_(watch), part_(part) {}
    ~Lap() { watch_.seconds_[part_] += elapsed(); }
    Lap(const Lap&) = delete;             // counts once
    Lap& operator=(const Lap&) = delete;  // likewise

   private:
    double elapsed() const {
      return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    }
    Trace::Span span_;
    Stopwatch& watch_;
    std::string part_;
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  };

  Lap lap(std::string_view part) { return Lap(*this, part); }
  const std::map<std::string, double>& seconds() const noexcept { return seconds_; }

 private:
  Trace* trace_;
  std::map<std::string, double> seconds_;
};

}  // namespace quern
