#pragma once

#include <fmt/format.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace quern {

/// What this rank did when, as spans of time on rows: one row for the thread that made the trace,
/// one for each other thread that has a span open at the same time, and rows by name for what runs
/// on no thread. Spans of one thread are nested or disjoint. Thread-safe; kept in memory.
class Trace {
 public:
  using Clock = std::chrono::steady_clock;

  /// From construction to destruction, on the calling thread; not for another thread to destroy.
  /// trace: nullptr records nothing and does not even format the name.
  class Span {
   public:
    Span(Trace* trace, std::string_view name) : trace_(trace) {
      if (trace_ != nullptr) open(std::string(name));
    }
    template <typename First, typename... Rest>
    Span(Trace* trace, fmt::format_string<First, Rest...> format, First&& first, Rest&&... rest)
        : trace_(trace) {
      if (trace_ == nullptr) return;
      open(fmt::format(format, std::forward<First>(first), std::forward<Rest>(rest)...));
    }
    ~Span() {
      if (trace_ != nullptr) trace_->close(row_, std::move(name_), begin_);
    }
    Span(const Span&) = delete;             // ends once
    Span& operator=(const Span&) = delete;  // likewise

   private:
    void open(std::string name);

    Trace* trace_;
    std::string name_;
    std::size_t row_ = 0;
    Clock::time_point begin_;
  };

  /// most_spans: later ones are only counted.
  explicit Trace(std::size_t most_spans = 200'000);

  /// A span whose times are known, on the row of that name: work of a device.
  void add(std::string_view row, std::string_view name, Clock::time_point begin,
           Clock::time_point end);

  std::size_t left_out() const;

  /// The finished spans as Chrome trace events, JSON objects with commas between them: pid is
  /// `rank`, tid the row, times in microseconds since `origin` by this rank's clock.
  std::string events(int rank, Clock::time_point origin) const;

 private:
  struct Finished {
    std::size_t row;
    std::string name;
    Clock::time_point begin;
    Clock::time_point end;
  };
  /// A thread with open spans.
  struct Working {
    std::size_t row;
    int open;
  };

  std::size_t take_row();
  void close(std::size_t row, std::string name, Clock::time_point begin) noexcept;
  void keep(Finished span);
  std::size_t free_row();

  const std::size_t most_spans_;
  mutable std::mutex mutex_;  // guards all below
  std::vector<std::string> rows_;
  std::vector<std::size_t> thread_rows_;  ///< those of threads, lowest first
  std::map<std::string, std::size_t, std::less<>> named_rows_;
  std::map<std::thread::id, Working> working_;
  std::vector<Finished> finished_;
  std::size_t left_out_ = 0;
};

}  // namespace quern
