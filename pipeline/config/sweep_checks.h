#pragma once

#include "pipeline/config/checks.h"

namespace quern {

/// Checks the sweep of a run file: every key has an effect on some point, every entry of
/// sweep.exclude excludes one, and each point that remains is a run that works by itself.
/// Throws ConfigError with the place of the value that a point takes.
void check_sweep(const RunFile& run, const Places& places);

}  // namespace quern
