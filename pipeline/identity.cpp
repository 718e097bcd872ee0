#include "pipeline/identity.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/core/error.h"
#include "pipeline/config/enum_names.h"
#include "pipeline/config/resolved.h"
#include "workers/comm/mpi_environment.h"
#include "workers/files/atomic_file.h"
#include "workers/files/hash.h"
#include "workers/files/json_file.h"
#include "workers/store/bundle_file.h"

namespace quern {
namespace {

/// "  quantize.bits: 4 in the run directory, 3 now" for every leaf that differs.
std::string differences(const std::string& place, const nlohmann::json& then,
                        const nlohmann::json& now) {
  const nlohmann::json before = then.flatten();
  const nlohmann::json after = now.flatten();
  const nlohmann::json absent = "absent";
  std::string text;
  const auto report = [&](const std::string& key, const auto& old_value, const auto& new_value) {
    std::string path = key.substr(1);
    std::ranges::replace(path, '/', '.');
    text +=
        fmt::format("\n  {}: {} in {}, {} now", path, old_value.dump(), place, new_value.dump());
  };
  for (const auto& [key, value] : before.items()) {
    const nlohmann::json& other = after.contains(key) ? after[key] : absent;
    if (value != other) report(key, value, other);
  }
  for (const auto& [key, value] : after.items()) {
    if (!before.contains(key)) report(key, absent, value);
  }
  return text;
}

}  // namespace

nlohmann::json make_identity(const RunFile& config, const OpenModel& model,
                             const std::string& calibration_hash, const std::string& numerics) {
  nlohmann::json inputs = {{"checkpoint", model.tensors->fingerprint()}};
  for (const char* name :
       {"config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"}) {
    const std::filesystem::path path = model.folder / name;
    if (std::filesystem::exists(path)) inputs[name] = xxh3_file(path);
  }
  return {{"config", identity_json(config)},
          {"model", inputs},
          {"calibration_tokens", calibration_hash},
          {"numerics", {{"quern", QUERN_VERSION}, {"backend", numerics}}}};
}

nlohmann::json statistics_identity(const nlohmann::json& run_identity) {
  nlohmann::json identity = run_identity;
  identity["config"] = nlohmann::json::object();
  const auto calibration = run_identity.at("config").find("calibration");
  if (calibration != run_identity.at("config").end()) {
    identity["config"]["calibration"] = *calibration;
  }
  return identity;
}

bool settle_identity(const IdentityPlace& place, const nlohmann::json& identity,
                     const CommitHook& hook) {
  const std::filesystem::path path = place.directory / "identity.json";
  const bool there = std::filesystem::exists(path);
  if (there && place.resume == Resume::never) {
    throw ConfigError(
        fmt::format("run.resume: 'never', but {} holds an earlier run; choose another "
                    "run.directory or remove it",
                    place.directory.string()));
  }
  if (!there && place.resume == Resume::required) {
    throw ConfigError(fmt::format("run.resume: 'required', but {} holds no earlier run",
                                  place.directory.string()));
  }
  if (!there) {
    write_text_file(path, identity.dump(2) + "\n", hook);
    return false;
  }
  nlohmann::json then = read_json_file(path);
  if (!then.is_object()) then = nlohmann::json::object();  // then everything differs
  nlohmann::json now = identity;
  if (place.ignore_numerics) {
    then.erase("numerics");
    now.erase("numerics");
  }
  if (then == now) return true;
  throw ConfigError(fmt::format(
      "{}: {} holds {} with other settings:{}\nuse another {}, undo the change{}", place.key,
      place.directory.string(), place.contents, differences(place.name, then, now), place.key,
      then["numerics"] != now["numerics"] ? ", or accept other numerics with run.ignore_numerics"
                                          : ""));
}

nlohmann::json make_provenance(const nlohmann::json& identity, const OutputConfig& output) {
  nlohmann::json provenance = identity;
  provenance["libraries"] = {mpi_library_version(), hdf5_library_version()};
  provenance["tool"] = fmt::format("quern {}", QUERN_VERSION);
  provenance["output"] = {{"format", name_of(output.format)}, {"shard_size", output.shard_bytes}};
  return provenance;
}

}  // namespace quern
