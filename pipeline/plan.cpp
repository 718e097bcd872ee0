#include "pipeline/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "kernels/core/error.h"
#include "pipeline/config/sweep.h"
#include "pipeline/model_budget.h"

namespace quern {
namespace {

double real(std::int64_t value) {
  return static_cast<double>(value);
}

double calibration_tokens(const RunFile& config) {
  return real(config.calibration.samples) * real(config.calibration.text.sequence_length);
}

std::uint64_t state_bytes(const PlannedModule& planned, const QuantizeConfig& config) {
  const std::int64_t k = planned.module.in_features;
  const std::int64_t n = planned.module.out_features;
  const std::int64_t words = (k * planned.grid.bits + 31) / 32;
  if (config.target_bits) {
    return static_cast<std::uint64_t>(*config.target_bits * real(k * n) / 8.0);
  }
  if (config.method == Method::squeezellm) {
    const double outliers = config.sparsity.total() * real(k * n);
    const double dense = dense_bits(n, k, planned.grid.bits, 32) / 8.0;  // as float32 in any case
    return static_cast<std::uint64_t>(dense) + 4 * static_cast<std::uint64_t>(n + 1) +
           8 * static_cast<std::uint64_t>(outliers);
  }
  return static_cast<std::uint64_t>(words * n * 4 +
                                    group_count(k, planned.grid.group_size) * n * 3 + k * 4);
}

/// Of a module in the exported files.
std::uint64_t packed_bytes(const PlannedModule& planned, const QuantizeConfig& config) {
  if (config.method != Method::squeezellm || config.target_bits) {
    return state_bytes(planned, config);
  }
  const std::int64_t k = planned.module.in_features;
  const std::int64_t n = planned.module.out_features;
  const auto outliers = static_cast<std::uint64_t>(config.sparsity.total() * real(k * n));
  const auto dense = static_cast<std::uint64_t>(
      dense_bits(n, k, planned.grid.bits, table_entry_bits(config)) / 8.0);
  return outliers == 0 ? dense : dense + 4 * static_cast<std::uint64_t>(n + 1) + 8 * outliers;
}

/// Work on one module alone.
double module_flops(const PlannedModule& planned, const QuantizeConfig& config) {
  const double k = real(planned.module.in_features);
  const double n = real(planned.module.out_features);
  if (config.method != Method::squeezellm) return n * k * k;
  const double clustering = n * k * 16.0 * real(std::int64_t{1} << planned.grid.bits);
  const double sweeps = config.codebook_search == CodebookSearch::lnq ? 16.0 : 0.0;
  return clustering + sweeps * n * k * k;
}

/// Multiplications that the statistics of an input take beyond the passes through the layer.
double statistics_flops(const BundleUnit& bundle, const RunFile& config) {
  const double k = real(bundle.input.features);
  const double tokens = calibration_tokens(config);
  if (config.quantize.method != Method::squeezellm) return tokens * k * k;
  double flops = 0;
  for (const LinearModule& module : bundle.input.modules) {
    flops += 2.0 * tokens * real(module.out_features) * k;
    if (config.quantize.codebook_search == CodebookSearch::lnq) flops += tokens * k * k;
  }
  return flops;
}

BundleUnit make_bundle(std::string name, const LayerInput& input, const RunFile& config) {
  BundleUnit bundle{std::move(name), input, {}};
  const double k = real(input.features);
  for (const LinearModule& module : input.modules) {
    const ModuleSettings settings = settings_for(config.quantize, module.name);
    if (settings.skip) continue;
    bundle.modules.push_back({module, settings.grid});
    bundle.solve_flops += module_flops(bundle.modules.back(), config.quantize);
    bundle.state_bytes += state_bytes(bundle.modules.back(), config.quantize);
  }
  if (bundle.modules.empty() || config.quantize.method == Method::rtn) return bundle;
  if (config.quantize.method == Method::gptq) bundle.solve_flops += k * k * k / 3.0;
  bundle.statistics_flops = statistics_flops(bundle, config);
  return bundle;
}

LayerUnit make_layer(const ModelGraph& graph, const LayerGraph& layer, const RunFile& config) {
  LayerUnit unit;
  unit.layer = layer.index;
  for (const TensorNode& node : layer.tensors) {
    unit.weight_elems += static_cast<std::uint64_t>(node.shape.elems());
    if (node.shape.rank() == 2) {
      unit.forward_flops += 2.0 * real(node.shape.elems()) * calibration_tokens(config);
    }
  }
  const ModelGeometry& geometry = graph.geometry;
  const std::int64_t window = geometry.window[static_cast<std::size_t>(layer.index)];
  const double seen = real(config.calibration.text.sequence_length) / 2.0;
  unit.forward_flops += 4.0 * calibration_tokens(config) *
                        real(geometry.heads * geometry.head_dim) *
                        (window > 0 ? std::min(seen, real(window)) : seen);
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

std::uint64_t output_bytes(const ModelGraph& graph, const Plan& plan, const RunFile& config) {
  const std::uint64_t element = dtype_bytes(graph.geometry.dtype);
  std::uint64_t total = 0;
  for (const TensorNode& node : graph.tensors) {
    total += static_cast<std::uint64_t>(node.shape.elems()) * element;
  }
  for (const LayerUnit& layer : plan.layers) total += layer.weight_elems * element;
  if (config.output.format == OutputFormat::dequantized) return total;
  for (const BundleUnit* bundle : plan.stored_bundles()) {
    for (const PlannedModule& planned : bundle->modules) {
      total -=
          static_cast<std::uint64_t>(planned.module.out_features * planned.module.in_features) *
          element;
      total += packed_bytes(planned, config.quantize);
    }
  }
  return total;
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

std::uint64_t Estimate::peak_rank_bytes() const noexcept {
  return activation_bytes + weight_bytes + statistics_bytes + solver_bytes;
}

namespace {

/// Bytes of what is summed for one input; F takes fewer where it is kept than while it is summed.
std::uint64_t statistics_bytes(const BundleUnit& bundle, const QuantizeConfig& config,
                               std::uint64_t fisher_entry_bytes = 8) {
  const auto k = static_cast<std::uint64_t>(bundle.input.features);
  if (config.method == Method::rtn) return 0;
  if (config.method == Method::gptq) return 8 * k * k;
  std::uint64_t bytes = 0;
  for (const LinearModule& module : bundle.input.modules) {
    bytes += fisher_entry_bytes * k * static_cast<std::uint64_t>(module.out_features);
    if (config.codebook_search == CodebookSearch::lnq) bytes += 8 * k * k;
  }
  return bytes;
}

/// Of a rank's micro-batches between layers, of one inside a layer, and of the layer inputs that a
/// backward pass keeps.
std::uint64_t activation_bytes(const ModelGeometry& geometry, const RunFile& config, int ranks) {
  const std::int64_t batch_tokens =
      config.calibration.micro_batch * config.calibration.text.sequence_length;
  const std::int64_t batches = (config.calibration.samples + config.calibration.micro_batch - 1) /
                               config.calibration.micro_batch;
  const auto mine = static_cast<std::uint64_t>((batches + ranks - 1) / ranks * batch_tokens);
  const auto hidden = static_cast<std::uint64_t>(geometry.hidden);
  const auto widest = static_cast<std::uint64_t>(std::max(geometry.intermediate, geometry.hidden));
  const bool backward = config.quantize.method == Method::squeezellm;
  const bool keeps_inputs = config.quantize.true_sequential && !backward;
  const bool keeps_both = config.quantize.propagation == Propagation::original || backward;
  std::uint64_t bytes =
      4 * (mine * hidden * (keeps_both ? 2 : 1) + (keeps_inputs ? mine * widest : 0) +
           static_cast<std::uint64_t>(batch_tokens) * (hidden + 3 * widest) * (backward ? 2 : 1));
  if (backward) {
    const std::uint64_t all = 4 * mine * hidden * static_cast<std::uint64_t>(geometry.layers);
    const std::uint64_t limit = config.run.activation_bytes;
    bytes += limit == 0 ? all : std::min(all, limit);
  }
  return bytes;
}

/// The largest working space of a bundle's solver.
std::uint64_t solver_bytes(const BundleUnit& bundle, const QuantizeConfig& config) {
  const auto k = static_cast<std::uint64_t>(bundle.input.features);
  std::uint64_t bytes = config.method == Method::squeezellm ? 0 : 3 * 8 * k * k;
  for (const PlannedModule& planned : bundle.modules) {
    const std::uint64_t weights = k * static_cast<std::uint64_t>(planned.module.out_features);
    const bool codebook = config.method == Method::squeezellm;
    const bool refines = config.codebook_search == CodebookSearch::lnq;
    bytes = std::max(bytes, codebook ? 16 * weights + (refines ? 8 * k * k : 0)
                                     : 2 * 8 * k * k + 3 * 8 * weights);
  }
  return bytes;
}

}  // namespace

Estimate estimate(const ModelGraph& graph, const Plan& plan, const RunFile& config, int ranks) {
  Estimate result;
  const bool backward = config.quantize.method == Method::squeezellm;
  const bool keeps_inputs = config.quantize.true_sequential && !backward;
  const bool keeps_both = config.quantize.propagation == Propagation::original || backward;
  result.activation_bytes = activation_bytes(graph.geometry, config, ranks);
  for (const LayerUnit& layer : plan.layers) {
    result.weight_bytes = std::max(result.weight_bytes, layer.weight_elems * 8);
    const double passes = backward ? 3 : keeps_inputs || keeps_both ? 1 : 2;
    result.forward_flops += layer.forward_flops * passes;
    std::uint64_t sums = 0;
    for (const BundleUnit& bundle : layer.bundles) {
      result.solver_bytes = std::max(result.solver_bytes, solver_bytes(bundle, config.quantize));
      const std::uint64_t bytes = statistics_bytes(bundle, config.quantize);
      sums = keeps_inputs ? std::max(sums, bytes) : sums + bytes;
    }
    result.statistics_bytes = std::max(result.statistics_bytes, sums);
  }
  for (const BundleUnit* bundle : plan.stored_bundles()) {
    result.statistics_flops += bundle->statistics_flops;
    result.solve_flops += bundle->solve_flops;
    result.state_bytes += bundle->state_bytes;
    if (config.run.statistics == Statistics::keep || allocates_by_statistics(config.quantize)) {
      result.state_bytes += statistics_bytes(*bundle, config.quantize, 4);
    }
  }
  result.output_bytes = output_bytes(graph, plan, config);
  return result;
}

}  // namespace quern
