#pragma once

#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>

namespace spdlog {
class logger;
}

namespace quern {

/// How far a run is and when it will end: one line that is rewritten on a terminal, and plain lines
/// in the log. Silent on all ranks but the first.
class Progress {
 public:
  struct Options {
    bool enabled = true;    ///< rank 0
    bool terminal = false;  ///< standard error is a terminal
  };

  Progress(std::shared_ptr<spdlog::logger> log, Options options);

  /// Starts a part of `total` units of equal weight, `done` of them from an earlier run.
  void begin(std::string_view part, std::int64_t total, std::int64_t done = 0);
  /// One more unit is done.
  void step(std::string_view what);
  void end();
  /// The unit in hand: "backward layer 3 of 32". On every rank.
  std::string unit() const;

 private:
  std::string estimate() const;

  std::shared_ptr<spdlog::logger> log_;
  Options options_;
  std::string part_;
  std::int64_t total_ = 0;
  std::int64_t resumed_ = 0;
  std::int64_t done_ = 0;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace quern
