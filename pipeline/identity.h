#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "pipeline/config/run_config.h"
#include "pipeline/model/weight_source.h"
#include "workers/files/commit_hook.h"

namespace quern {

/// What decides the bytes of a run: the identity part of the configuration, fingerprints of
/// checkpoint, config.json and calibration tokens, and the numerics (backend, libraries, version).
/// Holds no path, no host and no rank count.
nlohmann::json make_identity(const RunFile& config, const OpenModel& model,
                             const std::string& calibration_hash, const std::string& numerics);

/// Rank 0, on a held run directory: writes identity.json, or compares with the one there. Throws
/// ConfigError listing what differs (key: then, now), or when `resume` forbids or requires an
/// earlier run. Different numerics pass with run.ignore_numerics. Returns true on a resume.
bool settle_identity(const std::filesystem::path& directory, const nlohmann::json& identity,
                     const RunConfig& config, const CommitHook& hook = {});

/// The same plus what is needed to reproduce an export: provenance.json of an output folder.
nlohmann::json make_provenance(const nlohmann::json& identity, const OutputConfig& output);

}  // namespace quern
