#include "pipeline/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "kernels/core/error.h"
#include "pipeline/config/sweep.h"
#include "pipeline/estimate.h"
#include "pipeline/model_budget.h"

namespace quern {
namespace {

BundleUnit make_bundle(std::string name, const LayerInput& input, const RunFile& config) {
  BundleUnit bundle{std::move(name), input, {}};
  for (const LinearModule& module : input.modules) {
    const ModuleSettings settings = settings_for(config.quantize, module.name);
    if (!settings.skip) bundle.modules.push_back({module, settings.grid});
  }
  estimate_bundle(bundle, config);
  return bundle;
}

LayerUnit make_layer(const ModelGraph& graph, const LayerGraph& layer, const RunFile& config) {
  LayerUnit unit;
  unit.layer = layer.index;
  estimate_layer(unit, layer, graph.geometry, config);
  for (std::size_t i = 0; i < layer.inputs.size(); ++i) {
    unit.bundles.push_back(
        make_bundle(fmt::format("layers/layer-{:03}/bundle-{:02}.h5", layer.index, i),
                    layer.inputs[i], config));
  }
  return unit;
}

/// vLLM fuses the modules of one input and wants one scheme for them, symmetric, 4 or 8 bits.
void warn_about_servers(const BundleUnit& bundle, std::vector<std::string>& warnings) {
  const std::size_t readers = bundle.input.modules.size();
  const auto differs = [&](const PlannedModule& planned) {
    const GridSpec& first = bundle.modules.front().grid;
    return planned.grid.bits != first.bits || planned.grid.group_size != first.group_size ||
           planned.grid.symmetric != first.symmetric;
  };
  if (!bundle.modules.empty() &&
      (bundle.modules.size() != readers || std::ranges::any_of(bundle.modules, differs))) {
    warnings.push_back(
        fmt::format("{}: its {} modules are fused by servers such as vLLM, which "
                    "want one scheme for all of them",
                    bundle.input.modules[0].name, readers));
  }
}

void warn_about_schemes(const Plan& plan, const RunFile& config,
                        std::vector<std::string>& warnings) {
  if (config.output.format != OutputFormat::gptq) return;
  std::map<std::string, std::string> reasons;  // reason -> first module it applies to
  for (const BundleUnit* bundle : plan.stored_bundles()) {
    for (const auto& [module, grid] : bundle->modules) {
      const auto note = [&](bool bad, const std::string& reason) {
        if (bad) reasons.emplace(reason, module.name);
      };
      const std::int64_t gs = grid.group_size;
      note(grid.bits != 4 && grid.bits != 8, fmt::format("{} bits (it takes 4 and 8)", grid.bits));
      note(!grid.symmetric, "asymmetric grids");
      note(gs != -1 && gs != 32 && gs != 64 && gs != 128,
           fmt::format("group size {} (it takes -1, 32, 64, 128)", gs));
      note(module.out_features % 64 != 0 || module.in_features % 128 != 0,
           "out features that are no multiple of 64 or in features that are none of 128");
    }
  }
  for (const auto& [reason, module] : reasons) {
    warnings.push_back(
        fmt::format("vLLM's GPTQ kernels do not take {}; first met at {}", reason, module));
  }
}

/// SqueezeLLM's own loader and kernels know 3 and 4 bits; the packing wants whole words.
void check_codebook_formats(const Plan& plan, const RunFile& config,
                            std::vector<std::string>& warnings) {
  const OutputFormat format = config.output.format;
  if (format != OutputFormat::squeezellm && format != OutputFormat::squeezellm_safetensors) return;
  for (const BundleUnit* bundle : plan.stored_bundles()) {
    if (bundle->input.features % 32 == 0) continue;
    throw InputError(fmt::format(
        "module '{}' has {} in features; the squeezellm formats pack 32 at a time; skip it by a "
        "rule, or choose output.format dequantized",
        bundle->modules.front().module.name, bundle->input.features));
  }
  const int bits = config.quantize.grid.bits;
  if (format == OutputFormat::squeezellm && bits != 3 && bits != 4) {
    warnings.push_back(
        fmt::format("SqueezeLLM's kernels do not take {} bits (they take 3 and 4)", bits));
  }
}

void warn_about_statistics(const RunFile& config, std::vector<std::string>& warnings) {
  const bool asked =
      config.run.statistics == Statistics::keep || !config.run.statistics_directory.empty();
  if (!asked || config.quantize.method != Method::gptq ||
      config.quantize.propagation == Propagation::original) {
    return;
  }
  warnings.emplace_back(
      "run.statistics: H measured behind quantized layers serves no other run and is not kept; "
      "quantize.propagation original shares it");
}

}  // namespace

std::vector<std::string> LayerUnit::bundle_names() const {
  std::vector<std::string> names;
  for (const BundleUnit& bundle : bundles) {
    if (!bundle.modules.empty()) names.push_back(bundle.name);
  }
  return names;
}

std::vector<const BundleUnit*> Plan::stored_bundles() const {
  std::vector<const BundleUnit*> result;
  const auto add = [&](const std::vector<BundleUnit>& bundles) {
    for (const BundleUnit& bundle : bundles) {
      if (!bundle.modules.empty()) result.push_back(&bundle);
    }
  };
  for (const LayerUnit& layer : layers) add(layer.bundles);
  add(head);
  return result;
}

std::int64_t Plan::planned_weights() const {
  std::int64_t weights = 0;
  for (const BundleUnit* bundle : stored_bundles()) {
    for (const auto& [module, grid] : bundle->modules) {
      weights += module.out_features * module.in_features;
    }
  }
  return weights;
}

Plan make_plan(const ModelGraph& graph, const RunFile& config) {
  Plan plan;
  for (const LayerGraph& layer : graph.layers) {
    plan.layers.push_back(make_layer(graph, layer, config));
    if (config.output.format != OutputFormat::gptq) continue;
    for (const BundleUnit& bundle : plan.layers.back().bundles) {
      warn_about_servers(bundle, plan.warnings);
    }
  }
  if (config.quantize.lm_head) {
    if (graph.geometry.tied_head) {
      throw ConfigError(
          "quantize.lm_head: the model's head is its embedding (tie_word_embeddings), "
          "which cannot be packed; expected false");
    }
    const LinearModule head = graph.head();
    plan.head.push_back(
        make_bundle("layers/lm-head/bundle-00.h5", {"head", 0, head.in_features, {head}}, config));
  }
  warn_about_schemes(plan, config, plan.warnings);
  check_codebook_formats(plan, config, plan.warnings);
  warn_about_statistics(config, plan.warnings);
  if (asks_for_sweep(config)) {
    plan.warnings.emplace_back(
        "the file describes a sweep; this is the plan of its other settings");
  }
  check_target(plan, config.quantize);
  return plan;
}

std::vector<int> assign_owners(std::span<const BundleUnit* const> bundles, int ranks) {
  std::vector<std::size_t> order(bundles.size());
  std::iota(order.begin(), order.end(), 0U);
  std::ranges::stable_sort(order, std::ranges::greater{},
                           [&](std::size_t i) { return bundles[i]->solve_flops; });
  std::vector<double> load(static_cast<std::size_t>(ranks));
  std::vector<int> owners(bundles.size());
  for (const std::size_t i : order) {
    const auto lightest = std::ranges::min_element(load);
    *lightest += bundles[i]->solve_flops;
    owners[i] = static_cast<int>(lightest - load.begin());
  }
  return owners;
}

std::vector<int> assign_owners(const std::vector<BundleUnit>& bundles, int ranks) {
  std::vector<const BundleUnit*> pointers;
  for (const BundleUnit& bundle : bundles) pointers.push_back(&bundle);
  return assign_owners(pointers, ranks);
}

std::vector<InputGroup> input_groups(const LayerUnit& layer, const QuantizeConfig& config) {
  const std::span<const BundleUnit> bundles = layer.bundles;
  const bool by_stage = config.method == Method::gptq && config.true_sequential;
  std::vector<InputGroup> groups;
  for (std::size_t begin = 0, end = 0; begin < bundles.size(); begin = end) {
    const auto joins = [&](const BundleUnit& bundle) {
      return !by_stage || bundle.input.stage == bundles[begin].input.stage;
    };
    while (end < bundles.size() && joins(bundles[end])) ++end;
    groups.push_back({bundles.subspan(begin, end - begin)});
  }
  return groups;
}

}  // namespace quern
