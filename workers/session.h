#pragma once

#include <memory>
#include <string_view>

#include "kernels/backend.h"
#include "workers/comm/communicator.h"
#include "workers/comm/watchdog.h"
#include "workers/files/commit_hook.h"

namespace spdlog {
class logger;
}

namespace quern {

/// What one rank owns, passed by reference to whoever works: there is no global state.
/// Members are destroyed in reverse order: the communicator before the memory it sends from.
struct Session {
  std::shared_ptr<spdlog::logger> log;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Communicator> communicator;
  std::unique_ptr<Watchdog> watchdog;
  CommitHook commit_hook;

  int rank() const noexcept { return communicator->rank(); }
  int ranks() const noexcept { return communicator->size(); }
  bool is_root() const noexcept { return rank() == 0; }
};

}  // namespace quern
