#pragma once

#include <spdlog/sinks/null_sink.h>
#include <spdlog/spdlog.h>

#include <memory>

#include "workers/session.h"

namespace quern::test {

/// A session that logs nowhere. nullptr: one rank without MPI.
inline Session quiet_session(MpiEnvironment* mpi, int threads) {
  auto log =
      std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::null_sink_mt>());
  return make_session(mpi, std::move(log), {.threads = threads});
}

/// Two threads for a rank without MPI; ranks of a job have one each, because threads that wait
/// would take the cores from each other.
inline Session quiet_session(MpiEnvironment* mpi = nullptr) {
  return quiet_session(mpi, mpi == nullptr ? 2 : 1);
}

}  // namespace quern::test
