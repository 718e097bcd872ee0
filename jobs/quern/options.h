#pragma once

#include <CLI/CLI.hpp>
#include <memory>

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

}  // namespace quern
