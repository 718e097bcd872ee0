#include "workers/trace_file.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <limits>

#include "kernels/core/error.h"
#include "workers/agreement.h"
#include "workers/files/atomic_file.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

std::int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             Trace::Clock::now().time_since_epoch())
      .count();
}

/// Rank 0's readings around one of every other rank.
struct Reading {
  std::int64_t before = 0;
  std::int64_t after = 0;
};

/// The moment at which rank 0 began to compare, on this rank's clock. Collective.
Trace::Clock::time_point compare_clocks(Communicator& communicator) {
  constexpr std::size_t kReadings = 15;
  std::array<Reading, kReadings> around;
  std::array<std::int64_t, kReadings> own{};
  for (std::size_t i = 0; i < kReadings; ++i) {
    around[i].before = now_ns();
    communicator.barrier();
    own[i] = now_ns();
    communicator.barrier();
    around[i].after = now_ns();
  }
  communicator.broadcast(std::as_writable_bytes(std::span(around)), 0);
  std::int64_t least = std::numeric_limits<std::int64_t>::min();
  std::int64_t most = std::numeric_limits<std::int64_t>::max();
  for (std::size_t i = 0; i < kReadings; ++i) {
    least = std::max(least, own[i] - around[i].after);
    most = std::min(most, own[i] - around[i].before);
  }
  const std::int64_t offset = communicator.rank() == 0 ? 0 : least + (most - least) / 2;
  return Trace::Clock::time_point(std::chrono::nanoseconds(around[0].before + offset));
}

void write_events(const fs::path& file, std::string_view events) {
  write_text_file(file,
                  fmt::format("{{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n{}\n]}}\n", events));
}

/// Takes the trace out of the session.
std::string take_events(Session& session, Trace::Clock::time_point origin) {
  const std::unique_ptr<Trace> trace = std::move(session.trace);
  if (trace->left_out() > 0) {
    session.log->warn("trace: {} spans beyond the first ones are left out", trace->left_out());
  }
  return trace->events(session.rank(), origin);
}

/// Collective: one file with the events of all ranks.
void write_together(Session& session, const fs::path& file, const std::string& own) {
  std::string all;
  for (const auto& part : session.communicator->gather(std::as_bytes(std::span(own)), 0)) {
    if (!all.empty()) all += ",\n";
    all.append(reinterpret_cast<const char*>(part.data()), part.size());
  }
  run_agreed(session, [&] {
    if (session.is_root()) write_events(file, all);
  });
}

void write_alone(const Session& session, fs::path file, const std::string& own) {
  if (!session.is_root()) {
    file.replace_extension(fmt::format(".rank-{}{}", session.rank(), file.extension().string()));
  }
  write_events(file, own);
}

/// While an exception is in flight, which counts for more than the trace.
void write_what_there_is(Session& session, const fs::path& file, const std::string& own) noexcept {
  try {
    session.leaving_together ? write_together(session, file, own) : write_alone(session, file, own);
  } catch (const std::exception& error) {
    session.log->warn("the trace could not be written: {}", error.what());
  }
}

void check_place(Session& session, const fs::path& file) {
  run_agreed(session, [&] {
    if (!session.is_root()) return;
    if (fs::is_directory(file)) {
      throw StoreError(
          fmt::format("{}: is a directory; expected a file to write the trace to", file.string()));
    }
    require_writable(fs::absolute(file).parent_path());
  });
}

}  // namespace

void run_traced(Session& session, const fs::path& file, const std::function<void()>& work) {
  if (file.empty()) {
    work();
    return;
  }
  check_place(session, file);
  const auto origin = compare_clocks(*session.communicator);
  session.trace = std::make_unique<Trace>();
  try {
    work();
  } catch (...) {
    write_what_there_is(session, file, take_events(session, origin));
    throw;
  }
  write_together(session, file, take_events(session, origin));
}

}  // namespace quern
