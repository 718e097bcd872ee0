#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "pipeline/plan.h"
#include "workers/files/commit_hook.h"

namespace quern {

/// Writes plan.json: the names of what a run will commit, for `status` to count against.
void write_plan_file(const std::filesystem::path& directory, const Plan& plan,
                     const CommitHook& hook = {});

/// State of a run directory from journal, plan.json and heartbeat, while the run lives and after it
/// died; changes nothing. {state: running | stopped | finished, committed, total, layer, activity,
/// holder, heartbeat_age_s, ...}. Throws InputError if the directory holds no run.
nlohmann::json run_status(const std::filesystem::path& directory);

/// The same for people.
std::string status_text(const nlohmann::json& status);

}  // namespace quern
