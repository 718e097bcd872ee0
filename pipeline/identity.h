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

/// What decides the bytes of calibration statistics: the same without what only a method cares for.
nlohmann::json statistics_identity(const nlohmann::json& run_identity);

/// A directory whose contents belong to one identity.
struct IdentityPlace {
  std::filesystem::path directory;
  std::string key;  ///< of the run file, for errors: "run.directory"
  std::string name = "the run directory";
  std::string contents;  ///< "a run"
  Resume resume = Resume::automatic;
  bool ignore_numerics = false;  ///< other backends and libraries pass
};

/// Rank 0: writes identity.json, or compares with the one there. Throws ConfigError listing what
/// differs (key: then, now), or when `resume` forbids or requires an earlier one. Returns true if
/// one was there.
bool settle_identity(const IdentityPlace& place, const nlohmann::json& identity,
                     const CommitHook& hook = {});

/// The same plus what is needed to reproduce an export: provenance.json of an output folder.
nlohmann::json make_provenance(const nlohmann::json& identity, const OutputConfig& output);

}  // namespace quern
