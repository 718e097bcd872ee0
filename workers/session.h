#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "kernels/backend.h"
#include "workers/comm/communicator.h"
#include "workers/comm/watchdog.h"
#include "workers/device.h"
#include "workers/files/commit_hook.h"
#include "workers/trace.h"

namespace spdlog {
class logger;
}

namespace quern {

class MpiEnvironment;

/// What this rank is doing, as the watchdog's thread sees it, and who is told of it.
class Heartbeat {
 public:
  void note(std::string_view activity);
  /// Told the activity at every beat, from the watchdog's thread; empty: nobody. Returns who was
  /// told before, and is not called any more.
  std::function<void(const std::string& activity)> tell(
      std::function<void(const std::string& activity)> listener);
  void beat();

 private:
  std::mutex activity_mutex_;
  std::mutex listener_mutex_;  // a listener on a hanging file system must not hold up note()
  std::string activity_;
  std::function<void(const std::string&)> listener_;
};

/// What one rank owns, passed by reference to whoever works: there is no global state.
/// Members are destroyed in reverse order: the communicator before the memory it sends from.
struct Session {
  std::shared_ptr<spdlog::logger> log;
  CommitHook commit_hook;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Communicator> communicator;
  std::shared_ptr<Heartbeat> heartbeat;
  std::unique_ptr<Watchdog> watchdog;
  std::unique_ptr<Trace> trace;   ///< where spans are recorded; nullptr: nowhere
  int threads = 1;                ///< of this rank, for work on the host
  int ranks_on_host = 1;          ///< of this job on this host; they share its memory
  bool leaving_together = false;  ///< the exception in flight was agreed on by all ranks

  int rank() const noexcept { return communicator->rank(); }
  int ranks() const noexcept { return communicator->size(); }
  bool is_root() const noexcept { return rank() == 0; }

  /// Names the operation in hand for the watchdog, the peers and `status`.
  void enter(std::string_view activity);
};

struct SessionOptions {
  int threads = 1;  ///< of the CPU backend
  std::chrono::seconds deadline{3600};
  std::chrono::seconds silence{6};
  DeviceRequest device{};
};

/// Makes the parts of a session in place. Collective over the ranks of `mpi`; nullptr: a job of one
/// rank without MPI. A device that is not as asked for is every rank's error, as in run_agreed.
void start_session(Session& session, MpiEnvironment* mpi, std::shared_ptr<spdlog::logger> log,
                   const SessionOptions& options);
Session make_session(MpiEnvironment* mpi, std::shared_ptr<spdlog::logger> log,
                     const SessionOptions& options);

}  // namespace quern
