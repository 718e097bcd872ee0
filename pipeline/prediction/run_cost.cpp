#include "pipeline/prediction/run_cost.h"

#include <algorithm>
#include <functional>

namespace quern {
namespace {

double stage_of(const RunCost& cost, const std::string& name) {
  const auto found = cost.stages.find(name);
  return found == cost.stages.end() ? 0.0 : found->second;
}

/// A quantity that every layer of a kind changes alike.
double grown(const RunCost& first, const RunCost& repeated, std::span<const LongerRun> longer,
             const std::function<double(const RunCost&)>& quantity) {
  double value = quantity(first);
  for (const LongerRun& run : longer) {
    const double change = quantity(run.cost) - quantity(repeated);
    value += change / static_cast<double>(run.added) * static_cast<double>(run.missing);
  }
  return value;
}

}  // namespace

RunCost cost_of(const nlohmann::json& report) {
  RunCost cost;
  cost.seconds = report.at("seconds");
  for (const auto& row : report.at("stages")) cost.stages[row.at("stage")] = row.at("seconds");
  cost.state_bytes = report.at("state").at("bytes");
  cost.output_bytes = report.at("output").at("bytes");
  cost.host_bytes = report.at("memory").at("peak_rank_bytes");
  const nlohmann::json& device = report.at("memory").at("peak_device_bytes");
  if (!device.is_null()) cost.device_bytes = device.get<double>();
  return cost;
}

nlohmann::json cost_json(const RunCost& cost) {
  nlohmann::json stages = nlohmann::json::array();
  for (const auto& [stage, seconds] : cost.stages) {
    stages.push_back({{"stage", stage}, {"seconds", seconds}});
  }
  std::sort(stages.begin(), stages.end(),
            [](const auto& a, const auto& b) { return a["seconds"] > b["seconds"]; });
  return {{"seconds", cost.seconds},
          {"stages", stages},
          {"state", {{"bytes", cost.state_bytes}}},
          {"output", {{"bytes", cost.output_bytes}}},
          {"memory",
           {{"peak_rank_bytes", cost.host_bytes},
            {"peak_device_bytes",
             cost.device_bytes ? nlohmann::json(*cost.device_bytes) : nlohmann::json()}}}};
}

RunCost extrapolated(const RunCost& first, const RunCost& repeated,
                     std::span<const LongerRun> longer) {
  const auto whole = [&](const auto& quantity) { return grown(first, repeated, longer, quantity); };
  RunCost cost;
  cost.seconds = whole(&RunCost::seconds);
  cost.state_bytes = whole(&RunCost::state_bytes);
  cost.output_bytes = whole(&RunCost::output_bytes);
  for (const auto& [stage, seconds] : repeated.stages) cost.stages[stage] = 0.0;
  for (const LongerRun& run : longer) {
    for (const auto& [stage, seconds] : run.cost.stages) cost.stages[stage] = 0.0;
  }
  for (auto& [stage, seconds] : cost.stages) {
    const double linear = whole([&](const RunCost& run) { return stage_of(run, stage); });
    seconds = std::max(0.0, linear);
    cost.seconds += seconds - linear;
  }
  cost.seconds = std::max(0.0, cost.seconds);
  cost.host_bytes = std::max(first.host_bytes, repeated.host_bytes);
  cost.device_bytes = std::max(first.device_bytes, repeated.device_bytes);
  for (const LongerRun& run : longer) {
    cost.host_bytes = std::max(cost.host_bytes, run.cost.host_bytes);
    cost.device_bytes = std::max(cost.device_bytes, run.cost.device_bytes);
  }
  return cost;
}

}  // namespace quern
