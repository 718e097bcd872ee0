#include "pipeline/exporters/gptq_dynamic.h"

#include <fmt/format.h>

#include <optional>
#include <regex>
#include <string>
#include <vector>

#include "pipeline/config/rules.h"

namespace quern {
namespace {

struct Entry {
  std::string expression;
  bool skip;
  nlohmann::ordered_json overrides;
};

/// What differs between the module's grid and the default one.
nlohmann::ordered_json overrides_of(const GridSpec& grid, const GridSpec& standard) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  if (grid.bits != standard.bits) json["bits"] = grid.bits;
  if (grid.group_size != standard.group_size) json["group_size"] = grid.group_size;
  if (grid.symmetric != standard.symmetric) json["sym"] = grid.symmetric;
  return json;
}

struct ModuleOutcome {
  std::string name;
  std::optional<GridSpec> grid;  ///< empty: skipped
};

std::vector<ModuleOutcome> outcomes(const ModelGraph& graph, const QuantizeConfig& config) {
  std::vector<ModuleOutcome> result;
  const auto add = [&](const std::string& name) {
    const ModuleSettings settings = settings_for(config, name);
    result.push_back({name, settings.skip ? std::nullopt : std::optional(settings.grid)});
  };
  for (const LayerGraph& layer : graph.layers) {
    for (const LayerInput& input : layer.inputs) {
      for (const LinearModule& module : input.modules) add(module.name);
    }
  }
  if (config.lm_head) add(graph.head().name);
  return result;
}

std::vector<Entry> entries_of_rules(const QuantizeConfig& config) {
  std::vector<Entry> entries;
  for (const QuantizeRule& rule : config.rules) {
    GridSpec grid = config.grid;
    grid.bits = rule.bits.value_or(grid.bits);
    grid.group_size = rule.group_size.value_or(grid.group_size);
    grid.symmetric = rule.symmetric.value_or(grid.symmetric);
    entries.push_back({"(?:" + rule.match + ")$", rule.skip, overrides_of(grid, config.grid)});
  }
  return entries;
}

std::string escaped(const std::string& name) {
  std::string result;
  for (const char c : name) result += c == '.' ? std::string("\\.") : std::string(1, c);
  return result + "$";
}

std::vector<Entry> entries_of_modules(const std::vector<ModuleOutcome>& modules,
                                      const GridSpec& standard) {
  std::vector<Entry> entries;
  for (const ModuleOutcome& module : modules) {
    if (module.grid && *module.grid == standard) continue;
    entries.push_back(
        {escaped(module.name), !module.grid,
         module.grid ? overrides_of(*module.grid, standard) : nlohmann::ordered_json::object()});
  }
  return entries;
}

/// How a reader resolves a module: the index of the entry, or none.
const Entry* resolve(const std::vector<Entry>& entries, const std::string& name) {
  for (const bool negative : {true, false}) {
    for (const Entry& entry : entries) {
      if (entry.skip == negative && std::regex_search(name, std::regex(entry.expression),
                                                      std::regex_constants::match_continuous)) {
        return &entry;
      }
    }
  }
  return nullptr;
}

bool resolved_alike(const std::vector<Entry>& entries, const std::vector<ModuleOutcome>& modules,
                    const GridSpec& standard) {
  for (const ModuleOutcome& module : modules) {
    const Entry* entry = resolve(entries, module.name);
    const bool skipped = entry != nullptr && entry->skip;
    if (skipped != !module.grid) return false;
    if (skipped) continue;
    const auto found = entry == nullptr ? nlohmann::ordered_json::object() : entry->overrides;
    if (found != overrides_of(*module.grid, standard)) return false;
  }
  return true;
}

}  // namespace

nlohmann::ordered_json gptq_dynamic(const ModelGraph& graph, const QuantizeConfig& config) {
  const std::vector<ModuleOutcome> modules = outcomes(graph, config);
  std::vector<Entry> entries = entries_of_rules(config);
  if (!resolved_alike(entries, modules, config.grid)) {
    entries = entries_of_modules(modules, config.grid);
  }
  nlohmann::ordered_json dynamic = nlohmann::ordered_json::object();
  for (const Entry& entry : entries) {
    const std::string key = (entry.skip ? "-:" : "+:") + entry.expression;
    if (!dynamic.contains(key)) dynamic[key] = entry.overrides;  // of equal ones the first counts
  }
  return dynamic;
}

}  // namespace quern
