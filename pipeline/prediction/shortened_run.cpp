#include "pipeline/prediction/shortened_run.h"

#include <algorithm>
#include <string>

#include "pipeline/config/rules.h"
#include "pipeline/estimate.h"
#include "pipeline/plan.h"

namespace quern {
namespace {

/// An expression that matches this module name alone.
std::string literal(const std::string& name) {
  std::string expression;
  for (const char c : name) {
    if (c == '.') expression += '\\';
    expression += c;
  }
  return expression;
}

QuantizeRule rule_for(const std::string& name, const ModuleSettings& settings) {
  QuantizeRule rule;
  rule.match = literal(name);
  rule.expression = std::regex(rule.match);
  rule.skip = settings.skip;
  if (settings.skip) return rule;
  rule.bits = settings.grid.bits;
  rule.group_size = settings.grid.group_size;
  rule.symmetric = settings.grid.symmetric;
  return rule;
}

/// What the modules of `original` are asked for, by the names in the layer that stands in for it.
void add_rules(const QuantizeConfig& quantize, const LayerGraph& original,
               const LayerGraph& stand_in, std::vector<QuantizeRule>& rules) {
  for (std::size_t i = 0; i < original.inputs.size(); ++i) {
    const auto& modules = original.inputs[i].modules;
    for (std::size_t m = 0; m < modules.size(); ++m) {
      rules.push_back(
          rule_for(stand_in.inputs[i].modules[m].name, settings_for(quantize, modules[m].name)));
    }
  }
}

const LayerGraph& layer_at(const ModelGraph& graph, std::int64_t layer) {
  return graph.layers[static_cast<std::size_t>(layer)];
}

/// Bytes of the exported files, with `layers` in the place of all.
double output_bytes(const RunFile& run, const ModelGraph& graph,
                    std::span<const std::int64_t> layers) {
  ModelGraph chosen = graph;
  chosen.layers.clear();
  for (const std::int64_t layer : layers) chosen.layers.push_back(layer_at(graph, layer));
  return static_cast<double>(estimate(chosen, make_plan(chosen, run), run, 1).output_bytes);
}

}  // namespace

nlohmann::ordered_json shortened_config(nlohmann::ordered_json config, const ModelGraph& graph,
                                        std::span<const std::int64_t> layers) {
  const std::vector<std::int64_t>& window = graph.geometry.window;
  const bool is_uniform =
      std::ranges::adjacent_find(window, std::ranges::not_equal_to{}) == window.end();
  config["num_hidden_layers"] = layers.size();
  if (is_uniform && !config.contains("layer_types")) return config;
  config["layer_types"] = nlohmann::ordered_json::array();
  for (const std::int64_t layer : layers) {
    const bool full = window[static_cast<std::size_t>(layer)] == 0;
    config["layer_types"].push_back(full ? "full_attention" : "sliding_attention");
  }
  return config;
}

RunFile shortened_run(const RunFile& run, const ModelGraph& graph,
                      std::span<const std::int64_t> layers) {
  RunFile shortened = run;
  shortened.run.save_activations = 0;
  shortened.run.resume = Resume::automatic;
  std::vector<std::int64_t> all;
  for (const LayerGraph& layer : graph.layers) all.push_back(layer.index);
  const double share = output_bytes(run, graph, layers) / output_bytes(run, graph, all);
  shortened.output.shard_bytes = static_cast<std::uint64_t>(
      std::max(1.0, share * static_cast<double>(run.output.shard_bytes)));
  if (run.quantize.rules.empty()) return shortened;
  std::vector<QuantizeRule> rules;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    add_rules(run.quantize, layer_at(graph, layers[i]),
              layer_at(graph, static_cast<std::int64_t>(i)), rules);
  }
  rules.insert(rules.end(), run.quantize.rules.begin(), run.quantize.rules.end());
  shortened.quantize.rules = std::move(rules);
  return shortened;
}

}  // namespace quern
