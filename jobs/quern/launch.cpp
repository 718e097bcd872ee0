#include "jobs/quern/launch.h"

#include <fmt/format.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <optional>
#include <thread>

#include "kernels/core/error.h"
#include "pipeline/model/model_graph.h"
#include "workers/agreement.h"
#include "workers/comm/mpi_environment.h"
#include "workers/files/atomic_file.h"

namespace quern {
namespace {

volatile std::sig_atomic_t g_stop = 0;

void note_signal(int) {
  g_stop = 1;
}

void install_signals() {
  struct sigaction action {};
  action.sa_handler = note_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  for (const int signal : {SIGUSR2, SIGTERM, SIGINT}) sigaction(signal, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);
}

/// Set by mpirun, srun --mpi=pmix or pmi2 in the processes they start.
bool launched_by_mpi() {
  constexpr std::array names = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_SIZE"};
  for (const char* name : names) {
    if (std::getenv(name) != nullptr) return true;
  }
  return false;
}

int threads_per_rank(const RunConfig& config, int ranks_on_host) {
  if (config.threads > 0) return config.threads;
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()) / ranks_on_host);
}

DeviceKind kind_of(Device device) {
  switch (device) {
    case Device::cpu:
      return DeviceKind::cpu;
    case Device::cuda:
      return DeviceKind::cuda;
    default:
      return DeviceKind::automatic;
  }
}

DeviceRequest device_request(const RunFile& run) {
  return {.kind = kind_of(run.run.device),
          .activation = dtype_of(run.run.activation_type),
          .model_dtype =
              [model = run.model] {
                return read_model_graph(model.path, model.ignore_fields).geometry.dtype;
              },
          .memory_limit_bytes = run.run.gpu_memory_bytes,
          .ignore_numerics = run.run.ignore_numerics};
}

spdlog::level::level_enum level_of(LogLevel level) {
  switch (level) {
    case LogLevel::debug:
      return spdlog::level::debug;
    case LogLevel::info:
      return spdlog::level::info;
    case LogLevel::warning:
      return spdlog::level::warn;
    default:
      return spdlog::level::err;
  }
}

std::shared_ptr<spdlog::logger> make_log(int rank, int ranks, LogLevel level) {
  auto sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  sink->set_pattern(ranks > 1 ? fmt::format("%H:%M:%S rank {} %l: %v", rank) : "%H:%M:%S %l: %v");
  // A terminal shows the progress line instead; the log file has everything.
  const bool quiet = rank != 0 || isatty(STDERR_FILENO) != 0;
  sink->set_level(quiet ? std::max(level_of(level), spdlog::level::warn) : level_of(level));
  auto log = std::make_shared<spdlog::logger>("quern", sink);
  log->set_level(level_of(level));
  log->flush_on(spdlog::level::info);
  return log;
}

/// The run file's bytes, read by rank 0 for everybody.
std::string shared_run_file(MpiEnvironment& mpi, const std::string& path) {
  const auto backend = make_cpu_backend(1);
  const auto communicator = mpi.make_communicator(backend->memory(), std::chrono::seconds(600));
  constexpr char kGood = '1';
  constexpr char kBad = '0';
  std::string text(1, kGood);
  if (mpi.rank() == 0) {
    try {
      text += read_run_file(path);
    } catch (const Error& error) {
      text.assign(1, kBad).append(error.what());
    }
  }
  const auto sent = std::as_bytes(std::span(text));
  const auto received = broadcast_message(*communicator, {sent.begin(), sent.end()}, 0);
  text.assign(reinterpret_cast<const char*>(received.data()), received.size());
  if (text.front() == kBad) throw ConfigError(text.substr(1));
  return text.substr(1);
}

void report_error(const std::string& message, ExitCode code) {
  fmt::print(stderr, "quern: {}: {}\n", code == ExitCode::interrupted ? "stopped" : "error",
             message);
}

/// Exit code of `body`; what it throws is reported by the processes that speak.
int caught(const std::function<void()>& body, bool speaks) {
  try {
    body();
    return static_cast<int>(ExitCode::done);
  } catch (...) {
    const auto [message, code] = describe_exception();
    if (speaks) report_error(message, code);
    return static_cast<int>(code);
  }
}

/// The part of launch() that holds a session.
int run_session(MpiEnvironment* mpi, const RunFileOptions& options, const CommitHook& hook,
                const std::function<void(Session&, const ParsedRunFile&)>& body) {
  const int rank = mpi == nullptr ? 0 : mpi->rank();
  const int ranks = mpi == nullptr ? 1 : mpi->size();
  std::optional<Session> session;
  try {
    const std::string text =
        mpi == nullptr ? read_run_file(options.path) : shared_run_file(*mpi, options.path);
    const ParsedRunFile parsed = parse_run_file(text, options.path, options.overrides);
    const RunConfig& run = parsed.run.run;
    SessionOptions session_options{
        .threads = threads_per_rank(run, mpi == nullptr ? 1 : mpi->ranks_on_host()),
        .deadline = run.deadline,
        .silence = run.watchdog,
        .device = device_request(parsed.run)};
    session.emplace();
    start_session(*session, mpi, make_log(rank, ranks, run.log_level), session_options);
    session->commit_hook = hook;
    body(*session, parsed);
    return static_cast<int>(ExitCode::done);
  } catch (const PeerError& error) {
    return static_cast<int>(error.exit_code());
  } catch (...) {
    const auto [message, code] = describe_exception();
    const bool together = !session || session->leaving_together;
    if (rank == 0 || session) report_error(message, code);
    if (mpi != nullptr && ranks > 1 && !together) mpi->abort(static_cast<int>(code));
    return static_cast<int>(code);
  }
}

}  // namespace

bool stop_requested() noexcept {
  return g_stop != 0;
}

bool is_first_process() {
  constexpr std::array names = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"};
  for (const char* name : names) {
    if (const char* rank = std::getenv(name)) return std::string_view(rank) == "0";
  }
  return true;
}

std::string read_run_file(const std::string& path) {
  try {
    return read_text_file(path);
  } catch (const Error& error) {
    throw ConfigError(fmt::format("run file: {}", error.what()));
  }
}

int guarded(const std::function<void()>& body) {
  return caught(body, is_first_process());
}

int launch(const RunFileOptions& options, const CommitHook& hook,
           const std::function<void(Session&, const ParsedRunFile&)>& body) {
  install_signals();
  if (!launched_by_mpi()) return run_session(nullptr, options, hook, body);
  std::optional<MpiEnvironment> mpi;
  const int failed = caught([&] { mpi.emplace(); }, true);
  return failed != 0 ? failed : run_session(&*mpi, options, hook, body);
}

}  // namespace quern
