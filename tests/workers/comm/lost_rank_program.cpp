// One way to lose a rank, or to look as if, per mode; run under mpirun by watchdog_test.cpp.

#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <string>
#include <thread>

#include "kernels/core/error.h"
#include "tests/support/host_memory.h"
#include "workers/comm/mpi_environment.h"
#include "workers/comm/watchdog.h"

namespace quern::test {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

constexpr int kCulprit = 1;

Watchdog::Options impatient() {
  return {.interval = 100ms, .silence = 3s, .on_beat = {}, .on_lost_rank = {}};
}

/// Everyone says what it does, waits a few heartbeats, and then meets in a collective; the culprit
/// does something else before.
void meet(MpiEnvironment& mpi, Watchdog::Options options, const std::function<void()>& misdeed) {
  HostMemory memory;
  const auto ranks = mpi.make_communicator(memory, 60s);
  const auto watchdog = make_mpi_watchdog(std::move(options));
  watchdog->enter("layer 7: reduce H of mlp.down_proj");
  std::this_thread::sleep_for(500ms);
  if (mpi.rank() == kCulprit) misdeed();
  ranks->barrier();
}

void stop(MpiEnvironment& mpi, const fs::path&) {
  meet(mpi, impatient(), [] { std::raise(SIGSTOP); });
}

void die(MpiEnvironment& mpi, const fs::path&) {
  meet(mpi, impatient(), [] { std::raise(SIGKILL); });
}

void fail_alone(MpiEnvironment& mpi, const fs::path&) {
  meet(mpi, impatient(), [] { throw StoreError("no space left on this rank alone"); });
}

void fail_together(MpiEnvironment& mpi, const fs::path&) {
  const auto watchdog = make_mpi_watchdog(impatient());
  if (mpi.size() > 0) throw InputError("a mistake that every rank sees");
}

void be_slow(MpiEnvironment& mpi, const fs::path&) {
  const auto watchdog = make_mpi_watchdog(impatient());
  if (mpi.rank() == kCulprit) std::this_thread::sleep_for(5s);
}

void hang_in_beat(MpiEnvironment& mpi, const fs::path&) {
  Watchdog::Options options = impatient();
  options.on_beat = [] { std::this_thread::sleep_for(5s); };
  meet(mpi, std::move(options), [] {});
}

void hang_in_report(MpiEnvironment& mpi, const fs::path&) {
  Watchdog::Options options = impatient();
  options.on_lost_rank = [](std::string_view) { std::this_thread::sleep_for(1h); };
  meet(mpi, std::move(options), [] { std::raise(SIGSTOP); });
}

/// Leaves its process id in a file and waits to be told to go on.
void be_suspended(MpiEnvironment& mpi, const fs::path& directory) {
  const auto watchdog = make_mpi_watchdog(impatient());
  const std::string name = "pid-" + std::to_string(mpi.rank());
  std::ofstream(directory / (name + ".tmp")) << ::getpid();
  fs::rename(directory / (name + ".tmp"), directory / name);
  while (!fs::exists(directory / "go")) std::this_thread::sleep_for(20ms);
}

int run(const std::string& mode, const fs::path& directory) {
  const std::map<std::string, void (*)(MpiEnvironment&, const fs::path&)> modes{
      {"stop", stop},
      {"die", die},
      {"fail-alone", fail_alone},
      {"fail-together", fail_together},
      {"be-slow", be_slow},
      {"hang-in-beat", hang_in_beat},
      {"hang-in-report", hang_in_report},
      {"be-suspended", be_suspended}};
  MpiEnvironment mpi;
  try {
    modes.at(mode)(mpi, directory);
    return 0;
  } catch (const InputError& error) {
    return static_cast<int>(error.exit_code());
  } catch (const Error& error) {
    std::fprintf(stderr, "rank %d: %s\n", mpi.rank(), error.what());
    mpi.abort(static_cast<int>(error.exit_code()));
  }
}

}  // namespace
}  // namespace quern::test

int main(int argc, char** argv) {
  if (argc != 3) return 64;
  return quern::test::run(argv[1], argv[2]);
}
