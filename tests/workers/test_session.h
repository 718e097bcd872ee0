#pragma once

#include <spdlog/sinks/null_sink.h>
#include <spdlog/spdlog.h>

#include <memory>

#include "workers/session.h"

namespace quern::test {

/// A session of two threads that logs nowhere; nullptr: one rank without MPI.
inline Session quiet_session(MpiEnvironment* mpi = nullptr) {
  auto log =
      std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::null_sink_mt>());
  return make_session(mpi, std::move(log), {.threads = 2});
}

}  // namespace quern::test
