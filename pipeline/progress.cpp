#include "pipeline/progress.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

namespace quern {
namespace {

std::string duration_text(double seconds) {
  const auto whole = static_cast<long>(seconds + 0.5);
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole % 3600 / 60);
}

}  // namespace

Progress::Progress(std::shared_ptr<spdlog::logger> log, Options options)
    : log_(std::move(log)), options_(options) {}

void Progress::begin(std::string_view part, std::int64_t total, std::int64_t done) {
  part_ = part;
  total_ = total;
  resumed_ = done;
  done_ = done;
  start_ = std::chrono::steady_clock::now();
  if (options_.enabled && done > 0)
    log_->info("{}: {} of {} done by an earlier run", part_, done, total);
}

std::string Progress::estimate() const {
  const double elapsed =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  if (done_ <= resumed_) return "";
  const double left =
      elapsed / static_cast<double>(done_ - resumed_) * static_cast<double>(total_ - done_);
  return fmt::format("{} elapsed, {} left", duration_text(elapsed), duration_text(left));
}

void Progress::step(std::string_view what) {
  ++done_;
  if (!options_.enabled) return;
  log_->info("{} {}/{}: {}; {}", part_, done_, total_, what, estimate());
  if (options_.terminal) {
    fmt::print(stderr, "\r\033[K{} {}/{} ({:.0f} %), {}", part_, done_, total_,
               100.0 * static_cast<double>(done_) / static_cast<double>(total_), estimate());
    std::fflush(stderr);
  }
}

std::string Progress::unit() const {
  return fmt::format("{} {} of {}", part_, done_ + 1, total_);
}

void Progress::end() {
  if (options_.enabled && options_.terminal) fmt::print(stderr, "\r\033[K");
}

}  // namespace quern
