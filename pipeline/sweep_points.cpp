#include "pipeline/sweep_points.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "kernels/core/error.h"
#include "pipeline/config/enum_names.h"
#include "pipeline/config/nested_fields.h"
#include "pipeline/config/resolved.h"
#include "pipeline/config/sweep.h"

namespace quern {
namespace {

constexpr double kSensitive = 0.0005;  // the split that one number in a run file stands for

/// "" for none; the sum where one number says it, else both parts.
std::string sparsity_name(const Sparsity& sparsity) {
  if (sparsity == Sparsity{}) return {};
  const bool usual = sparsity.magnitude == 0.0 ? sparsity.sensitive <= kSensitive
                                               : sparsity.sensitive == kSensitive;
  std::string name = usual ? fmt::format("-s{:.12g}", sparsity.total())
                           : fmt::format("-s{}+{}", sparsity.sensitive, sparsity.magnitude);
  if (sparsity.rule == OutlierSelection::joint) name += "-joint";
  if (sparsity.budget == OutlierBudget::model) name += "-model";
  return name;
}

std::string point_name(const QuantizeConfig& quantize) {
  std::string name{name_of(quantize.method)};
  name += quantize.target_bits ? fmt::format("-t{}", *quantize.target_bits)
                               : fmt::format("-b{}", quantize.grid.bits);
  if (quantize.method == Method::squeezellm) return name + sparsity_name(quantize.sparsity);
  return name +
         (quantize.grid.group_size < 0 ? "-row" : fmt::format("-g{}", quantize.grid.group_size));
}

SweepRun run_at(const RunFile& run, const SweepPoint& settings) {
  SweepRun result{.name = {}, .settings = settings, .config = at_point(run, settings)};
  result.name = point_name(result.config.quantize);
  RunConfig& place = result.config.run;
  if (place.statistics_directory.empty())
    place.statistics_directory = place.directory / "statistics";
  place.statistics = Statistics::keep;
  place.directory /= result.name;
  result.config.output.path /= result.name;
  return result;
}

}  // namespace

std::vector<SweepRun> expand_sweep(const RunFile& run) {
  if (!asks_for_sweep(run)) {
    throw ConfigError(
        "sweep: the run file has no such section; expected lists such as bits: [3, 4]; add one, or "
        "use quern quantize for a single run");
  }
  std::vector<SweepRun> runs;
  std::set<std::string> seen;
  for (const SweepChoice& choice : swept_choices(run)) {
    const bool excluded = std::ranges::any_of(run.sweep.exclude, [&](const SweepPoint& entry) {
      return matches(entry, choice.settings);
    });
    if (excluded) continue;
    SweepRun made = run_at(run, choice.settings);
    if (seen.insert(identity_json(made.config).dump()).second) runs.push_back(std::move(made));
  }
  if (runs.empty()) {
    throw ConfigError("sweep: no point remains; expected one that is not excluded; add one");
  }
  return runs;
}

nlohmann::json settings_json(const SweepRun& run) {
  nlohmann::json settings = nlohmann::json::object();
  for (const Field<SweepPoint>& field : point_fields()) {
    if (!field.methods.contains(*run.settings.method)) continue;
    settings[field.key] = field.value(run.settings);
  }
  if (run.config.quantize.target_bits) {
    settings.erase("bits");
    settings["target_bits"] = *run.config.quantize.target_bits;
  }
  return settings;
}

}  // namespace quern
