#pragma once

#include <string>

#include "pipeline/config/run_config.h"
#include "pipeline/runner.h"
#include "workers/session.h"

namespace quern {

/// Collective. Every point of the run file's sweep, one after the other: statistics are measured
/// once, points that are finished are passed over, and sweep.json, sweep.csv and sweep.html in
/// run.directory tell what is there after each. Returns the summary on rank 0.
std::string run_sweep(Session& session, const RunFile& config, const RunnerOptions& options);

}  // namespace quern
