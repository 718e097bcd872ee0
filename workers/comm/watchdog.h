#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace quern {

/// What a rank is doing, as shown to its peers: "layer 7: reduce H of mlp.down_proj".
/// A watchdog thread on every rank sends a heartbeat with this text to the next rank of a ring and
/// listens to the one before it. When that one stays silent for `silence`, or its process is seen
/// to have ended, the text it sent last is reported ("rank 3 on host n2 has been silent for 31 s,
/// last seen in: ...") and the process ends with _exit(75), which makes the launcher end the job:
/// NCCL and MPI may wait forever. A process is seen from its own host; so a rank that was killed
/// is reported before mpirun, which ends the job for that, has killed the others.
/// Time in which this process itself was stopped does not count as silence of the other.
class Watchdog {
 public:
  struct Options {
    std::chrono::milliseconds interval{500};
    /// At least four intervals; a busy host may well delay a heartbeat by seconds.
    std::chrono::milliseconds silence{30000};
    /// Called once per interval from a thread of its own (run directory heartbeat), so that a
    /// hanging file system does not look like a lost rank; must not throw. May be empty.
    std::function<void()> on_beat;
    /// Called with the message before the process ends, which it does 5 s later even if this does
    /// not return; must not throw. Empty: the message goes to standard error.
    std::function<void(std::string_view)> on_lost_rank;
  };

  virtual ~Watchdog() = default;
  Watchdog() = default;
  Watchdog(const Watchdog&) = delete;             // owns a thread
  Watchdog& operator=(const Watchdog&) = delete;  // likewise

  /// Names the operation in hand; cheap, any thread, truncated to 200 bytes.
  virtual void enter(std::string_view activity) = 0;
};

/// Heartbeats over MPI in a communicator of their own; throws CommunicationError where MPI does not
/// grant MPI_THREAD_MULTIPLE, InternalError for options out of range. Collective, and so is its
/// destruction: it waits, however long, until the rank before has come as far, or is lost.
/// Destroyed during an exception it neither waits nor says goodbye: to the next rank this one is
/// then lost, unless the job ends or all ranks leave the same way.
std::unique_ptr<Watchdog> make_mpi_watchdog(Watchdog::Options options);

/// One rank has no peers: only on_beat is called.
std::unique_ptr<Watchdog> make_self_watchdog(Watchdog::Options options);

}  // namespace quern
