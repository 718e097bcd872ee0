#include "workers/session.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "workers/comm/mpi_environment.h"

namespace quern {

void Heartbeat::note(std::string_view activity) {
  const std::lock_guard lock(activity_mutex_);
  activity_ = activity;
}

std::function<void(const std::string&)> Heartbeat::tell(
    std::function<void(const std::string&)> listener) {
  const std::lock_guard lock(listener_mutex_);
  return std::exchange(listener_, std::move(listener));
}

void Heartbeat::beat() {
  std::string activity;
  {
    const std::lock_guard lock(activity_mutex_);
    activity = activity_;
  }
  const std::lock_guard lock(listener_mutex_);
  if (listener_) listener_(activity);
}

void Session::enter(std::string_view activity) {
  watchdog->enter(activity);
  heartbeat->note(activity);
}

Session make_session(MpiEnvironment* mpi, std::shared_ptr<spdlog::logger> log,
                     const SessionOptions& options) {
  Session session;
  session.log = std::move(log);
  session.backend = make_cpu_backend(options.threads);
  session.heartbeat = std::make_shared<Heartbeat>();
  Watchdog::Options watch;
  watch.silence = options.silence;
  watch.interval = std::min(watch.interval, watch.silence / 4);
  watch.on_beat = [heartbeat = session.heartbeat] { heartbeat->beat(); };
  watch.on_lost_rank = [logger = session.log](std::string_view message) {
    logger->critical("{}; the job ends, run the same command to resume", message);
    logger->flush();
  };
  if (mpi == nullptr) {
    session.communicator = make_self_communicator();
    session.watchdog = make_self_watchdog(std::move(watch));
  } else {
    session.ranks_on_host = mpi->ranks_on_host();
    session.communicator = mpi->make_communicator(session.backend->memory(), options.deadline);
    session.watchdog = make_mpi_watchdog(std::move(watch));
  }
  return session;
}

}  // namespace quern
