#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "workers/trace.h"

namespace quern {

/// Seconds spent per named part of a run on this rank, in a tree of one level, in all and layer by
/// layer. Each lap is a span of the trace too, if there is one.
class Stopwatch {
 public:
  /// What one layer took, and how much of that each part.
  struct Layer {
    std::int64_t layer = 0;
    double seconds = 0.0;
    std::map<std::string, double> parts;

    /// What no part accounts for.
    double idle() const {
      double rest = seconds;
      for (const auto& [part, of_part] : parts) rest -= of_part;
      return rest;
    }
  };

  /// trace: outlives this object; nullptr: none.
  explicit Stopwatch(Trace* trace = nullptr) : trace_(trace) {}

  using Clock = std::chrono::steady_clock;

  /// Adds the time from construction to destruction to a part.
  class Lap {
   public:
    Lap(Stopwatch& watch, std::string_view part)
        : span_(watch.trace_, part), watch_(watch), part_(part) {}
    ~Lap() { watch_.seconds_[part_] += since(start_); }
    Lap(const Lap&) = delete;             // counts once
    Lap& operator=(const Lap&) = delete;  // likewise

   private:
    Trace::Span span_;
    Stopwatch& watch_;
    std::string part_;
    Clock::time_point start_ = Clock::now();
  };

  /// Records a layer from construction to destruction.
  class LayerLap {
   public:
    LayerLap(Stopwatch& watch, std::int64_t layer)
        : watch_(watch), layer_(layer), before_(watch.seconds_) {}
    ~LayerLap() {
      Layer done{layer_, since(start_), {}};
      for (const auto& [part, seconds] : watch_.seconds_) {
        const auto earlier = before_.find(part);
        const double own = seconds - (earlier == before_.end() ? 0.0 : earlier->second);
        if (own > 0.0) done.parts[part] = own;
      }
      watch_.layers_.push_back(std::move(done));
    }
    LayerLap(const LayerLap&) = delete;             // counts once
    LayerLap& operator=(const LayerLap&) = delete;  // likewise

   private:
    Stopwatch& watch_;
    std::int64_t layer_;
    std::map<std::string, double> before_;
    Clock::time_point start_ = Clock::now();
  };

  Lap lap(std::string_view part) { return Lap(*this, part); }
  LayerLap layer_lap(std::int64_t layer) { return LayerLap(*this, layer); }
  const std::map<std::string, double>& seconds() const noexcept { return seconds_; }
  /// In the order in which they were done.
  const std::vector<Layer>& layers() const noexcept { return layers_; }

 private:
  static double since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  Trace* trace_;
  std::map<std::string, double> seconds_;
  std::vector<Layer> layers_;
};

}  // namespace quern
