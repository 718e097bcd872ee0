#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>
#include <type_traits>
#include <utility>

#include "kernels/core/error.h"
#include "workers/comm/mpi_group.h"
#include "workers/comm/polling.h"
#include "workers/comm/pulse.h"
#include "workers/comm/watchdog.h"

namespace quern {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

template <std::size_t Bytes>
using Text = std::array<char, Bytes>;  // zero-filled after the text, and always ending in a zero

template <std::size_t Bytes>
void assign(Text<Bytes>& text, std::string_view value) {
  text.fill('\0');
  std::copy_n(value.begin(), std::min(value.size(), Bytes - 1), text.begin());
}

/// One message; small enough that MPI sends it without the receiver's help.
struct Heartbeat {
  std::int64_t count = 0;
  std::int64_t goodbye = 0;
  Text<64> host{};
  Text<201> activity{};
};
static_assert(std::is_trivially_copyable_v<Heartbeat>);

class MpiWatchdog final : public Watchdog {
 public:
  explicit MpiWatchdog(Options options);
  ~MpiWatchdog() override;

  void enter(std::string_view activity) override;

 private:
  enum class Phase { watching, leaving, dropped };

  void run();
  void watch();
  void send_heartbeat(Phase phase);
  bool receive_heartbeats();
  Phase pause(Phase phase);
  std::string lost_message(Clock::duration silence) const;
  [[noreturn]] void end_process(std::string_view message) const noexcept;

  int previous_rank() const noexcept { return (group_.rank() + group_.size() - 1) % group_.size(); }
  int next_rank() const noexcept { return (group_.rank() + 1) % group_.size(); }

  const Options options_;
  const int exceptions_;
  MpiGroup group_;

  std::mutex mutex_;
  std::condition_variable wake_;
  Text<201> activity_{};           // guarded by mutex_
  Phase phase_ = Phase::watching;  // guarded by mutex_

  // Of the watchdog thread alone. The message under way is leaked if it never arrives.
  std::unique_ptr<Heartbeat> outgoing_ = std::make_unique<Heartbeat>();
  MPI_Request sending_ = MPI_REQUEST_NULL;
  Heartbeat heard_;

  Pulse pulse_;
  std::thread thread_;
};

MpiWatchdog::MpiWatchdog(Options options)
    : options_(std::move(options)),
      exceptions_(std::uncaught_exceptions()),
      pulse_(options_.on_beat, options_.interval) {
  ensure(options_.silence >= 4 * options_.interval, "a silence of at least four intervals");
  int provided = MPI_THREAD_SINGLE;
  check_mpi(MPI_Query_thread(&provided), "MPI_Query_thread");
  if (provided != MPI_THREAD_MULTIPLE) {
    throw CommunicationError(
        "the watchdog needs MPI_THREAD_MULTIPLE, which this MPI library does not grant; use a "
        "build of it that does");
  }
  Text<64> host{};
  ::gethostname(host.data(), host.size() - 1);
  outgoing_->host = host;
  assign(heard_.host, "(unknown)");
  assign(heard_.activity, "(before its first heartbeat)");
  if (group_.size() > 1) thread_ = std::thread([this] { run(); });
}

MpiWatchdog::~MpiWatchdog() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    phase_ = std::uncaught_exceptions() > exceptions_ ? Phase::dropped : Phase::leaving;
  }
  wake_.notify_one();
  thread_.join();
  if (phase_ == Phase::dropped) {
    group_.abandon();
    static_cast<void>(outgoing_.release());
  }
}

void MpiWatchdog::enter(std::string_view activity) {
  const std::lock_guard lock(mutex_);
  assign(activity_, activity);
}

void MpiWatchdog::run() {
  try {
    watch();
  } catch (const std::exception& error) {
    end_process(fmt::format("rank {}: the watchdog lost its connection to rank {}: {}",
                            group_.rank(), previous_rank(), error.what()));
  }
}

void MpiWatchdog::watch() {
  Phase phase = Phase::watching;
  auto last_heard = Clock::now();
  auto last_turn = last_heard;
  auto next_beat = last_heard;
  while (phase != Phase::dropped) {
    const auto now = Clock::now();
    if (now >= next_beat || phase == Phase::leaving) {
      send_heartbeat(phase);
      next_beat = now + options_.interval;
    }
    const bool heard = receive_heartbeats();
    // A late turn means that we were stopped, and the whole job may have been.
    if (heard || now - last_turn > 4 * options_.interval) last_heard = now;
    last_turn = now;
    const bool previous_left = heard_.goodbye != 0;
    if (!previous_left && now - last_heard > options_.silence) {
      end_process(lost_message(now - last_heard));
    }
    const bool we_left = outgoing_->goodbye != 0 && is_complete(sending_);
    if (previous_left && we_left) return;
    phase = pause(phase);
  }
}

/// Leaves a beat out while the one before is still under way: the receiver hears nothing either
/// way.
void MpiWatchdog::send_heartbeat(Phase phase) {
  if (outgoing_->goodbye != 0 || !is_complete(sending_)) return;
  ++outgoing_->count;
  outgoing_->goodbye = phase == Phase::leaving ? 1 : 0;
  {
    const std::lock_guard lock(mutex_);
    outgoing_->activity = activity_;
  }
  check_mpi(MPI_Isend(outgoing_.get(), sizeof(Heartbeat), MPI_BYTE, next_rank(), 0, group_.comm(),
                      &sending_),
            "MPI_Isend");
}

bool MpiWatchdog::receive_heartbeats() {
  bool any = false;
  while (true) {
    int waiting = 0;
    check_mpi(MPI_Iprobe(previous_rank(), 0, group_.comm(), &waiting, MPI_STATUS_IGNORE),
              "MPI_Iprobe");
    if (waiting == 0) return any;
    check_mpi(MPI_Recv(&heard_, sizeof(Heartbeat), MPI_BYTE, previous_rank(), 0, group_.comm(),
                       MPI_STATUS_IGNORE),
              "MPI_Recv");
    any = true;
  }
}

MpiWatchdog::Phase MpiWatchdog::pause(Phase phase) {
  std::unique_lock lock(mutex_);
  if (phase == Phase::watching) {
    wake_.wait_for(lock, options_.interval, [&] { return phase_ != Phase::watching; });
  } else {
    wake_.wait_for(lock, std::min(options_.interval, milliseconds(10)));
  }
  return phase_;
}

std::string MpiWatchdog::lost_message(Clock::duration silence) const {
  return fmt::format(
      "rank {} on host {} has been silent for {:.0f} s, last seen in: {} (heartbeat {}); rank {} "
      "ends "
      "the job, run again to resume",
      previous_rank(), heard_.host.data(), std::chrono::duration<double>(silence).count(),
      heard_.activity.data(), heard_.count, group_.rank());
}

void MpiWatchdog::end_process(std::string_view message) const noexcept {
  constexpr int kExitCode = static_cast<int>(ExitCode::interrupted);
  exit_after(std::chrono::seconds(5), kExitCode);
  if (options_.on_lost_rank) {
    options_.on_lost_rank(message);
  } else {
    std::fwrite(message.data(), 1, message.size(), stderr);
    std::fputc('\n', stderr);
  }
  ::_exit(kExitCode);
}

}  // namespace

std::unique_ptr<Watchdog> make_mpi_watchdog(Watchdog::Options options) {
  return std::make_unique<MpiWatchdog>(std::move(options));
}

}  // namespace quern
