#include "pipeline/estimate.h"

#include <algorithm>

#include "pipeline/config/rules.h"
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

/// Of an activation in host memory.
std::uint64_t element_bytes(const RunFile& config) {
  return config.run.activation_type == ActivationType::float64 ? 8 : 4;
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
  const std::uint64_t element = element_bytes(config);
  std::uint64_t bytes =
      element *
      (mine * hidden * (keeps_both ? 2 : 1) + (keeps_inputs ? mine * widest : 0) +
       static_cast<std::uint64_t>(batch_tokens) * (hidden + 3 * widest) * (backward ? 2 : 1));
  if (backward) {
    const std::uint64_t all = element * mine * hidden * static_cast<std::uint64_t>(geometry.layers);
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

std::uint64_t Estimate::peak_rank_bytes() const noexcept {
  return activation_bytes + weight_bytes + statistics_bytes + solver_bytes;
}

void estimate_bundle(BundleUnit& bundle, const RunFile& config) {
  for (const PlannedModule& planned : bundle.modules) {
    bundle.solve_flops += module_flops(planned, config.quantize);
    bundle.state_bytes += state_bytes(planned, config.quantize);
  }
  if (bundle.modules.empty() || config.quantize.method == Method::rtn) return;
  const double k = real(bundle.input.features);
  if (config.quantize.method == Method::gptq) bundle.solve_flops += k * k * k / 3.0;
  bundle.statistics_flops = statistics_flops(bundle, config);
}

void estimate_layer(LayerUnit& unit, const LayerGraph& layer, const ModelGeometry& geometry,
                    const RunFile& config) {
  for (const TensorNode& node : layer.tensors) {
    unit.weight_elems += static_cast<std::uint64_t>(node.shape.elems());
    if (node.shape.rank() == 2) {
      unit.forward_flops += 2.0 * real(node.shape.elems()) * calibration_tokens(config);
    }
  }
  const std::int64_t window = geometry.window[static_cast<std::size_t>(layer.index)];
  const double seen = real(config.calibration.text.sequence_length) / 2.0;
  unit.forward_flops += 4.0 * calibration_tokens(config) *
                        real(geometry.heads * geometry.head_dim) *
                        (window > 0 ? std::min(seen, real(window)) : seen);
}

Estimate estimate(const ModelGraph& graph, const Plan& plan, const RunFile& config, int ranks) {
  Estimate result;
  const bool backward = config.quantize.method == Method::squeezellm;
  const bool keeps_inputs = config.quantize.true_sequential && !backward;
  const bool keeps_both = config.quantize.propagation == Propagation::original || backward;
  result.activation_bytes = activation_bytes(graph.geometry, config, ranks);
  for (const LayerUnit& layer : plan.layers) {
    result.weight_bytes =
        std::max(result.weight_bytes, layer.weight_elems * 2 * element_bytes(config));
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
