#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <type_traits>
#include <utility>

#include "kernels/core/error.h"
#include "workers/comm/mpi_group.h"
#include "workers/comm/polling.h"
#include "workers/comm/pulse.h"
#include "workers/comm/watchdog.h"
#include "workers/process_identity.h"

namespace quern {
namespace {

constexpr int kExitCode = static_cast<int>(ExitCode::interrupted);

constexpr std::chrono::seconds kLongestEnd{5};  // for a report on a file system that hangs, say

/// Less than launchers leave to a process that they have told to end.
constexpr Patience kLastWords{.eager = std::chrono::microseconds(200),
                              .deadline = std::chrono::milliseconds(300)};

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

template <std::size_t Bytes>
using Text = std::array<char, Bytes>;  // zero-filled after the text, and always ending in a zero

template <std::size_t Bytes>
void assign(Text<Bytes>& text, std::string_view value) {
  text.fill('\0');
  std::copy_n(value.begin(), std::min(value.size(), Bytes - 1), text.begin());
}

/// What a rank says with its last heartbeat.
enum class Farewell : std::int64_t {
  none,     ///< it goes on
  goodbye,  ///< it leaves in order
  alarm     ///< it ends the job, and has told the user why
};

/// One message; small enough that MPI sends it without the receiver's help.
struct Heartbeat {
  std::int64_t count = 0;
  Farewell farewell = Farewell::none;
  std::int64_t process = 0;  // this and what follows: of its ProcessIdentity
  std::uint64_t start_time = 0;
  Text<256> host{};
  Text<48> boot{};
  Text<48> pid_namespace{};
  Text<201> activity{};
};
static_assert(std::is_trivially_copyable_v<Heartbeat>);

void assign(Heartbeat& heartbeat, const ProcessIdentity& process) {
  heartbeat.process = process.process;
  heartbeat.start_time = process.start_time;
  assign(heartbeat.host, process.host);
  assign(heartbeat.boot, process.boot);
  assign(heartbeat.pid_namespace, process.pid_namespace);
}

ProcessIdentity process_of(const Heartbeat& heartbeat) {
  return {.host = heartbeat.host.data(),
          .boot = heartbeat.boot.data(),
          .pid_namespace = heartbeat.pid_namespace.data(),
          .process = static_cast<int>(heartbeat.process),
          .start_time = heartbeat.start_time};
}

class MpiWatchdog final : public Watchdog {
 public:
  explicit MpiWatchdog(Options options);
  ~MpiWatchdog() override;

  void enter(std::string_view activity) override;

 private:
  enum class Phase { watching, leaving, dropped };

  void run();
  void watch();
  void send_heartbeat(Farewell farewell);
  bool receive_heartbeats();
  Phase pause(Phase phase);
  bool previous_ended() const { return previous_ && !is_running(*previous_); }
  std::string lost_message(const std::string& how) const;
  [[noreturn]] void end_job(std::string_view message) noexcept;
  [[noreturn]] void raise_alarm() noexcept;

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
  std::optional<ProcessIdentity> previous_;  // if its process can be seen from here

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
  assign(*outgoing_, this_process());
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
    end_job(fmt::format("rank {}: the watchdog lost its connection to rank {}: {}", group_.rank(),
                        previous_rank(), error.what()));
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
      send_heartbeat(phase == Phase::leaving ? Farewell::goodbye : Farewell::none);
      next_beat = now + options_.interval;
    }
    const bool ended = previous_ended();  // asked first: what it has sent before counts
    const bool heard = receive_heartbeats();
    // A late turn means that we were stopped, and the whole job may have been.
    if (heard || now - last_turn > 4 * options_.interval) last_heard = now;
    last_turn = now;
    if (heard_.farewell == Farewell::alarm) raise_alarm();
    const bool previous_left = heard_.farewell == Farewell::goodbye;
    const std::chrono::duration<double> silence = now - last_heard;
    if (!previous_left && ended) end_job(lost_message("has ended"));
    if (!previous_left && silence > options_.silence) {
      end_job(lost_message(fmt::format("has been silent for {:.0f} s", silence.count())));
    }
    const bool we_left = outgoing_->farewell != Farewell::none && is_complete(sending_);
    if (previous_left && we_left) return;
    phase = pause(phase);
  }
}

/// Leaves a beat out while the one before is still under way: the receiver hears nothing either
/// way.
void MpiWatchdog::send_heartbeat(Farewell farewell) {
  if (outgoing_->farewell == Farewell::goodbye || !is_complete(sending_)) return;
  ++outgoing_->count;
  outgoing_->farewell = farewell;
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
    if (heard_.count == 1 && shares_process_table(process_of(heard_))) {
      previous_ = process_of(heard_);
    }
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

std::string MpiWatchdog::lost_message(const std::string& how) const {
  return fmt::format(
      "rank {} on host {} {}, last seen in: {} (heartbeat {}); rank {} ends the job, run the same "
      "command to resume",
      previous_rank(), heard_.host.data(), how, heard_.activity.data(), heard_.count,
      group_.rank());
}

void MpiWatchdog::end_job(std::string_view message) noexcept {
  exit_after(kLongestEnd, kExitCode);
  if (options_.on_lost_rank) {
    options_.on_lost_rank(message);
  } else {
    std::fwrite(message.data(), 1, message.size(), stderr);
    std::fputc('\n', stderr);
  }
  raise_alarm();
}

/// Ends this process. It goes round: otherwise every rank would call the one before it lost.
void MpiWatchdog::raise_alarm() noexcept {
  exit_after(kLongestEnd, kExitCode);
  const auto sent = [this] { return is_complete(sending_); };
  try {
    poll_until(sent, kLastWords);
    send_heartbeat(Farewell::alarm);
    poll_until(sent, kLastWords);
  } catch (const std::exception&) {  // the next rank will miss this one
  }
  ::_exit(kExitCode);
}

}  // namespace

std::unique_ptr<Watchdog> make_mpi_watchdog(Watchdog::Options options) {
  return std::make_unique<MpiWatchdog>(std::move(options));
}

}  // namespace quern
