#include "pipeline/status.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/core/error.h"
#include "workers/files/atomic_file.h"
#include "workers/files/json_file.h"
#include "workers/store/journal.h"
#include "workers/store/run_holder.h"

namespace quern {

namespace fs = std::filesystem;

namespace {

/// Runs right below a directory, as a sweep leaves them: "a, b"; "" if there are none.
std::string runs_below(const fs::path& directory) {
  std::vector<std::string> names;
  if (!fs::is_directory(directory)) return {};
  for (const auto& entry : fs::directory_iterator(directory)) {
    if (fs::exists(entry.path() / "plan.json")) names.push_back(entry.path().filename().string());
  }
  std::ranges::sort(names);
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

void require_run(const fs::path& directory) {
  if (fs::exists(directory / "plan.json")) return;
  if (const std::string points = runs_below(directory); !points.empty()) {
    throw InputError(fmt::format(
        "{}: the directory of a sweep, not of one run; expected that of a point below it: {}",
        directory.string(), points));
  }
  throw InputError(
      fmt::format("{}: no run here (plan.json is missing); expected the run.directory "
                  "of a quantize run",
                  directory.string()));
}

}  // namespace

void write_plan_file(const fs::path& directory, const Plan& plan, const CommitHook& hook) {
  nlohmann::json bundles = nlohmann::json::array();
  for (const BundleUnit* bundle : plan.stored_bundles()) bundles.push_back(bundle->name);
  const nlohmann::json file = {{"layers", plan.layers.size()}, {"bundles", bundles}};
  write_text_file(directory / "plan.json", file.dump(1) + "\n", hook);
}

nlohmann::json run_status(const fs::path& directory) {
  require_run(directory);
  const nlohmann::json plan = read_json_file(directory / "plan.json");
  const auto entries = Journal(directory / "journal").load().entries;
  std::uint64_t bytes = 0;
  std::size_t committed = 0;
  std::string next;
  for (const nlohmann::json& row : plan.at("bundles")) {
    const auto entry = entries.find(row.get<std::string>());
    if (entry != entries.end()) {
      ++committed;
      bytes += entry->second.bytes;
    } else if (next.empty()) {
      next = row;
    }
  }
  nlohmann::json status = {{"directory", directory.string()},
                           {"committed", committed},
                           {"total", plan.at("bundles").size()},
                           {"layers", plan.at("layers")},
                           {"committed_bytes", bytes},
                           {"next", next.empty() ? nlohmann::json() : nlohmann::json(next)}};
  const auto holder = RunHolder::inspect(directory);
  const bool alive = holder && holder->alive;
  status["state"] = alive                                   ? "running"
                    : fs::exists(directory / "report.json") ? "finished"
                                                            : "stopped";
  if (holder) {
    status["host"] = holder->host;
    status["process"] = holder->process;
    status["activity"] = holder->activity;
    status["heartbeat_age_s"] = holder->heartbeat_age.count();
  }
  return status;
}

std::string status_text(const nlohmann::json& status) {
  std::string text = fmt::format("{}: {}\n", status.at("directory").get<std::string>(),
                                 status.at("state").get<std::string>());
  text +=
      fmt::format("  committed  {} of {} bundles, {:.1f} MB\n", status.at("committed").get<int>(),
                  status.at("total").get<int>(), status.at("committed_bytes").get<double>() / 1e6);
  if (!status.at("next").is_null()) {
    text += fmt::format("  next       {}\n", status.at("next").get<std::string>());
  }
  if (status.contains("host")) {
    text += fmt::format("  {}  process {} on {}, heartbeat {} s ago: {}\n",
                        status.at("state") == "running" ? "held by  " : "was held by",
                        status.at("process").get<int>(), status.at("host").get<std::string>(),
                        status.at("heartbeat_age_s").get<long>(),
                        status.at("activity").get<std::string>());
  }
  if (status.at("state") == "stopped") text += "  run quantize again to resume\n";
  return text;
}

}  // namespace quern
