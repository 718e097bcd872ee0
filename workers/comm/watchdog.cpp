#include "workers/comm/watchdog.h"

#include <utility>

#include "kernels/core/error.h"
#include "workers/comm/pulse.h"

namespace quern {
namespace {

class SelfWatchdog final : public Watchdog {
 public:
  explicit SelfWatchdog(Options options) : pulse_(std::move(options.on_beat), options.interval) {}
  void enter(std::string_view) override {}

 private:
  Pulse pulse_;
};

}  // namespace

Pulse::Pulse(std::function<void()> beat, std::chrono::milliseconds interval) {
  ensure(interval.count() > 0, "a heartbeat interval above zero");
  if (!beat) return;
  thread_ = std::jthread([this, interval, beat = std::move(beat)](const std::stop_token& stop) {
    run(stop, beat, interval);
  });
}

void Pulse::run(const std::stop_token& stop, const std::function<void()>& beat,
                std::chrono::milliseconds interval) {
  std::unique_lock lock(mutex_);
  while (!stop.stop_requested()) {
    beat();
    wake_.wait_for(lock, stop, interval, [] { return false; });
  }
}

std::unique_ptr<Watchdog> make_self_watchdog(Watchdog::Options options) {
  return std::make_unique<SelfWatchdog>(std::move(options));
}

}  // namespace quern
