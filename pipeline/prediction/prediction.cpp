#include "pipeline/prediction/prediction.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <exception>
#include <set>
#include <utility>
#include <vector>

#include "pipeline/config/resolved.h"
#include "pipeline/report/page.h"
#include "workers/files/hash.h"
#include "workers/files/json_file.h"

namespace quern {
namespace {

using nlohmann::json;

/// Of run: they change neither time nor memory.
constexpr std::array kWithoutCost = {"resume", "watchdog", "deadline", "log_level",
                                     "ignore_numerics"};

json row_of(const std::string& name, const char* unit, double predicted, double measured) {
  return {{"name", name}, {"unit", unit}, {"predicted", predicted}, {"measured", measured}};
}

double seconds_of(const RunCost& cost, const std::string& stage) {
  const auto found = cost.stages.find(stage);
  return found == cost.stages.end() ? 0.0 : found->second;
}

json total_rows(const RunCost& predicted, const RunCost& measured) {
  json rows = {row_of("time", "s", predicted.seconds, measured.seconds)};
  if (predicted.device_bytes && measured.device_bytes) {
    rows.push_back(
        row_of("device memory", "bytes", *predicted.device_bytes, *measured.device_bytes));
  }
  rows.push_back(row_of("host memory", "bytes", predicted.host_bytes, measured.host_bytes));
  rows.push_back(row_of("disk", "bytes", predicted.disk_bytes(), measured.disk_bytes()));
  return rows;
}

/// The longest stage first.
json stage_rows(const RunCost& predicted, const RunCost& measured) {
  std::map<std::string, double> longest = predicted.stages;
  for (const auto& [stage, seconds] : measured.stages) {
    longest[stage] = std::max(longest[stage], seconds);
  }
  std::vector<std::pair<double, std::string>> order;
  for (const auto& [stage, seconds] : longest) order.emplace_back(-seconds, stage);
  std::ranges::sort(order);
  json rows = json::array();
  for (const auto& [negative, stage] : order) {
    rows.push_back(row_of(stage, "s", seconds_of(predicted, stage), seconds_of(measured, stage)));
  }
  return rows;
}

/// Keys that differ, as in a run file: "quantize.bits, ranks".
std::string differing(const json& then, const json& now) {
  std::set<std::string> keys;
  for (const json& step : json::diff(then, now)) {
    std::string key = step.at("path").get<std::string>().substr(1);
    constexpr std::string_view kPrefix = "config/";
    if (key.starts_with(kPrefix)) key.erase(0, kPrefix.size());
    for (char& c : key) c = c == '/' ? '.' : c;
    keys.insert(key);
  }
  std::string text;
  for (const std::string& key : keys) text += (text.empty() ? "" : ", ") + key;
  return text;
}

json without_rows(const std::string& note) {
  return {{"note", note}, {"totals", json::array()}, {"stages", json::array()}};
}

}  // namespace

std::filesystem::path prediction_file(const RunFile& run) {
  return run.run.directory / "prediction.json";
}

json circumstances_of(const Session& session, const RunFile& run) {
  json config = resolved_json(run);
  for (const char* key : kWithoutCost) config["run"].erase(key);
  return {{"config", config},           {"model", xxh3_file(run.model.path / "config.json")},
          {"ranks", session.ranks()},   {"ranks_on_host", session.ranks_on_host},
          {"threads", session.threads}, {"numerics", session.backend->numerics()}};
}

std::string prediction_text(const json& prediction) {
  const RunCost cost = cost_of(prediction);
  const auto ranks = prediction.at("holds_for").at("ranks").get<int>();
  std::string layers;
  for (const json& count : prediction.at("rehearsals").at("layers")) {
    layers += fmt::format("{}{}", layers.empty() ? "" : ", ", count.get<int>());
  }
  std::string text =
      fmt::format("\npredicted for {} rank{}, from rehearsals of {} layers that took {}\n", ranks,
                  ranks == 1 ? "" : "s", layers,
                  seconds_text(prediction.at("rehearsals").at("seconds").get<double>()));
  const auto line = [&](const char* name, const std::string& value) {
    text += fmt::format("  {:<15}{}\n", name, value);
  };
  line("time", seconds_text(cost.seconds));
  for (const json& row : prediction.at("stages")) {
    text += fmt::format("    {:<13}{:.1f} s\n", row.at("stage").get<std::string>(),
                        row.at("seconds").get<double>());
  }
  if (cost.device_bytes) line("device memory", bytes_text(*cost.device_bytes) + " per rank");
  line("host memory", bytes_text(cost.host_bytes) + " per rank");
  line("disk", fmt::format("{}: state {}, output {}", bytes_text(cost.disk_bytes()),
                           bytes_text(cost.state_bytes), bytes_text(cost.output_bytes)));
  const auto scratch = prediction.at("scratch").at("bytes").get<double>();
  if (scratch > 0) line("scratch file", bytes_text(scratch) + " per rank");
  for (const json& assumption : prediction.at("assumptions")) {
    line("assumed", assumption.get<std::string>());
  }
  return text;
}

json compare(const json& prediction, const MeasuredRun& measured) {
  if (prediction.is_null()) return nullptr;
  const json& holds_for = prediction.at("holds_for");
  std::string note;
  if (!measured.is_whole) {
    note = "not compared: part of the run was there before this job";
  } else if (holds_for != measured.circumstances) {
    note = "not compared: predicted for other " + differing(holds_for, measured.circumstances);
  }
  json result = without_rows(note);
  if (!note.empty()) return result;
  const RunCost predicted = cost_of(prediction);
  result["totals"] = total_rows(predicted, measured.cost);
  result["stages"] = stage_rows(predicted, measured.cost);
  return result;
}

json compare_with_file(const RunFile& run, const MeasuredRun& measured) {
  const std::filesystem::path file = prediction_file(run);
  if (!std::filesystem::exists(file)) return nullptr;
  try {
    return compare(read_json_file(file), measured);
  } catch (const std::exception& error) {  // it must not cost a finished run
    return without_rows(
        fmt::format("not compared: {} cannot be used: {}", file.string(), error.what()));
  }
}

}  // namespace quern
