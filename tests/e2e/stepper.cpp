#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "jobs/quern/blas_core.h"
#include "jobs/quern/commands.h"

namespace {

/// What stands before quern's own arguments.
struct StepperOptions {
  int signal_at = 0;       ///< commit step, from 1, at which the process signals itself; 0: none
  int signal = SIGKILL;    ///< the signal it then raises
  int delay_ms = 0;        ///< how long it waits before it does
  std::string steps_file;  ///< gets the steps of a run that came to its end, one per line
};

StepperOptions take_options(std::vector<char*>& arguments) {
  StepperOptions options;
  while (arguments.size() > 2) {
    const std::string_view key = arguments[1];
    const char* value = arguments[2];
    if (key == "--signal-at") {
      options.signal_at = std::atoi(value);
    } else if (key == "--signal") {
      options.signal = std::atoi(value);
    } else if (key == "--delay-ms") {
      options.delay_ms = std::atoi(value);
    } else if (key == "--steps") {
      options.steps_file = value;
    } else {
      break;
    }
    arguments.erase(arguments.begin() + 1, arguments.begin() + 3);
  }
  return options;
}

}  // namespace

// quern that signals itself between the steps of its durable writes:
//   quern_stepper [--signal-at STEP] [--signal NUMBER] [--delay-ms TIME] [--steps FILE] <arguments
//   of quern>
int main(int argc, char** argv) {
  quern::choose_blas_core(argv);
  std::vector<char*> arguments(argv, argv + argc);
  const StepperOptions options = take_options(arguments);
  std::mutex mutex;
  std::vector<std::string> steps;
  const auto hook = [&](std::string_view step) {
    const std::lock_guard lock(mutex);
    steps.emplace_back(step);
    if (static_cast<int>(steps.size()) != options.signal_at) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(options.delay_ms));
    std::raise(options.signal);
  };
  const int code = quern::quern_main(static_cast<int>(arguments.size()), arguments.data(), hook);
  if (!options.steps_file.empty()) {
    std::ofstream file(options.steps_file);
    for (const std::string& step : steps) file << step << '\n';
  }
  return code;
}
