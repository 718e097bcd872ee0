#pragma once

#include <string>

#include "jobs/quern/commands.h"
#include "pipeline/runner.h"

namespace quern {

/// A subcommand that works for long: it listens to signals, shows progress, and ends with a
/// summary.
struct LongJob {
  const char* name;
  const char* description;
  std::string (*run)(Session&, const RunFile&, const RunnerOptions&);
};

void add_long_job(CLI::App& app, CommandContext& context, const LongJob& job);

}  // namespace quern
