#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "pipeline/config/run_config.h"

namespace quern {

/// One run of a sweep.
struct SweepRun {
  std::string name;     ///< "gptq-b4-g128", "squeezellm-b3-s0.0045-joint"; a folder's name
  SweepPoint settings;  ///< all set, also what the method does not know
  RunFile config;       ///< to run by itself; has no sweep
};

/// The runs of a parsed run file, in the order of the file, without those that come to the same
/// run as an earlier one. Each has its own folders <output.path>/<name> and <run.directory>/<name>;
/// statistics are kept in one folder, run.statistics_directory or <run.directory>/statistics.
/// Throws ConfigError if the file asks for no sweep or excludes every point.
std::vector<SweepRun> expand_sweep(const RunFile& run);

/// The settings that the run's method knows, as they are written in reports: method, bits (or
/// target_bits), group_size, sparsity {sensitive, magnitude, rule, budget}.
nlohmann::json settings_json(const SweepRun& run);

}  // namespace quern
