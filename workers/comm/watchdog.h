#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace quern {

/// What a rank is doing, as shown to its peers: "layer 7: reduce H of mlp.down_proj".
/// A watchdog thread on every rank sends a heartbeat with this text to the next rank of a ring and
/// listens to the one before it. When that one stays silent for `silence`, the text it sent last
/// is logged ("rank 3 on host n2 is silent since 31 s, last seen in: ...") and the process ends
/// with _exit(75), which makes the launcher end the job: NCCL and MPI themselves may wait forever.
class Watchdog {
 public:
  struct Options {
    std::chrono::milliseconds interval{500};
    std::chrono::milliseconds silence{30000};
    /// Called from the watchdog thread once per interval (run directory heartbeat); may be empty.
    std::function<void()> on_beat;
    /// Called with the message before the process ends; must not throw. May be empty.
    std::function<void(std::string_view)> on_lost_rank;
  };

  virtual ~Watchdog() = default;

  /// Names the operation in hand; cheap, any thread, truncated to 200 bytes.
  virtual void enter(std::string_view activity) = 0;
};

/// Heartbeats over MPI in a communicator of their own; throws CommunicationError where MPI does not
/// grant MPI_THREAD_MULTIPLE. With one rank only on_beat is called. Destroy it on all ranks
/// (collective).
std::unique_ptr<Watchdog> make_mpi_watchdog(Watchdog::Options options);
std::unique_ptr<Watchdog> make_self_watchdog(Watchdog::Options options);

}  // namespace quern
