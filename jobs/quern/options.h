#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "jobs/quern/launch.h"

namespace quern {

/// Adds RUN_FILE and --set to a subcommand.
inline void add_run_file(CLI::App& command, RunFileOptions& options) {
  command.add_option("RUN_FILE", options.path, "run file (YAML), see configs/")->required();
  command
      .add_option("--set", options.overrides,
                  "override a key of the run file, e.g. --set quantize.bits=3")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
}

/// Adds --trace to a subcommand that works for long.
inline void add_trace(CLI::App& command, std::string& file) {
  command
      .add_option("--trace", file,
                  "write what each rank did when to this file (JSON, load it in Perfetto)")
      ->type_name("FILE");
}

}  // namespace quern
