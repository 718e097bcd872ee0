#include "workers/trace.h"

#include <algorithm>
#include <new>
#include <nlohmann/json.hpp>

namespace quern {
namespace {

double microseconds(Trace::Clock::duration duration) {
  return std::chrono::duration<double, std::micro>(duration).count();
}

/// In quotes; bytes that are not UTF-8 are replaced.
std::string json_text(std::string_view text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

void Trace::Span::open(std::string name) {
  name_ = std::move(name);
  row_ = trace_->take_row();
  begin_ = Clock::now();
}

Trace::Trace(std::size_t most_spans)
    : most_spans_(most_spans), rows_{"main"}, thread_rows_{0}, working_{} {
  working_[std::this_thread::get_id()] = {0, 1};  // never gives its row away
}

/// The row of the calling thread; a thread without open spans gets one that no other is using.
std::size_t Trace::take_row() {
  const std::lock_guard lock(mutex_);
  const auto found = working_.find(std::this_thread::get_id());
  if (found != working_.end()) {
    ++found->second.open;
    return found->second.row;
  }
  const std::size_t row = free_row();
  working_[std::this_thread::get_id()] = {row, 1};
  return row;
}

std::size_t Trace::free_row() {
  for (const std::size_t row : thread_rows_) {
    const auto uses = [&](const auto& thread) { return thread.second.row == row; };
    if (std::ranges::none_of(working_, uses)) return row;
  }
  rows_.push_back(fmt::format("worker {}", thread_rows_.size()));
  thread_rows_.push_back(rows_.size() - 1);
  return rows_.size() - 1;
}

void Trace::close(std::size_t row, std::string name, Clock::time_point begin) noexcept {
  const auto end = Clock::now();
  const std::lock_guard lock(mutex_);
  const auto found = working_.find(std::this_thread::get_id());
  if (found != working_.end() && --found->second.open == 0) working_.erase(found);
  try {
    keep({row, std::move(name), begin, end});
  } catch (const std::bad_alloc&) {
    ++left_out_;  // a trace never ends a run
  }
}

void Trace::keep(Finished span) {
  if (finished_.size() < most_spans_) {
    finished_.push_back(std::move(span));
  } else {
    ++left_out_;
  }
}

void Trace::add(std::string_view row, std::string_view name, Clock::time_point begin,
                Clock::time_point end) {
  const std::lock_guard lock(mutex_);
  auto found = named_rows_.find(row);
  if (found == named_rows_.end()) {
    rows_.emplace_back(row);
    found = named_rows_.emplace(row, rows_.size() - 1).first;
  }
  keep({found->second, std::string(name), begin, end});
}

std::size_t Trace::left_out() const {
  const std::lock_guard lock(mutex_);
  return left_out_;
}

std::string Trace::events(int rank, Clock::time_point origin) const {
  const std::lock_guard lock(mutex_);
  std::string text = fmt::format(
      R"({{"ph":"M","pid":{},"name":"process_name","args":{{"name":"rank {}"}}}})", rank, rank);
  for (std::size_t row = 0; row < rows_.size(); ++row) {
    text += fmt::format(
        ",\n"
        R"({{"ph":"M","pid":{},"tid":{},"name":"thread_name","args":{{"name":{}}}}})",
        rank, row, json_text(rows_[row]));
  }
  for (const Finished& span : finished_) {
    text += fmt::format(
        ",\n"
        R"({{"ph":"X","pid":{},"tid":{},"ts":{:.3f},"dur":{:.3f},"name":{}}})",
        rank, span.row, microseconds(span.begin - origin), microseconds(span.end - span.begin),
        json_text(span.name));
  }
  return text;
}

}  // namespace quern
