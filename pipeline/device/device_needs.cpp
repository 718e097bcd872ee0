#include "pipeline/device/device_needs.h"

#include <algorithm>
#include <limits>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "kernels/cuda_backend.h"

namespace quern {
namespace {

using Bytes = std::uint64_t;

// What the CUDA backend takes for itself: workspaces of cuBLAS, tiles of X^T X or of gradients, and
// the panels in which solvers go through the rows of a module.
constexpr Bytes kBackendBytes = Bytes{224} << 20;
constexpr Bytes kRowPanelElems = Bytes{1} << 26;
constexpr Bytes kRowUnit = 64;      // rows of a module are padded to it
constexpr Bytes kErrorSteps = 512;  // whose errors wait for one product
constexpr Bytes kSortedPanelElems = Bytes{1} << 25;
constexpr Bytes kErrorColumns = 1024;
constexpr Bytes kErrorChunk = 256;  // of rows whose error is measured
constexpr Bytes kFactorWorkColumns = 1024;
constexpr Bytes kClusterBytes = Bytes{1} << 30;
constexpr Bytes kClusterRows = 512;  // that are clustered side by side
constexpr Bytes kOneHotBytes = Bytes{512} << 20;
constexpr Bytes kHeadRows = 256;

Bytes count(std::int64_t value) {
  return static_cast<Bytes>(value);
}

/// Of a layer's tensors in the activation type; one in the stored type while it is converted.
struct WeightBytes {
  Bytes kept = 0;
  Bytes converted = 0;
};

WeightBytes weight_bytes(const std::vector<TensorNode>& tensors, DType stored, DType activation) {
  WeightBytes bytes;
  for (const TensorNode& node : tensors) {
    const Bytes elems = count(node.shape.elems());
    bytes.kept += elems * dtype_bytes(activation);
    if (stored != activation) bytes.converted = std::max(bytes.converted, elems * 4);
  }
  return bytes;
}

Bytes sums_bytes(const BundleUnit& bundle, const QuantizeConfig& config) {
  const Bytes k = count(bundle.input.features);
  if (config.method == Method::rtn) return 0;
  if (config.method == Method::gptq) return 8 * k * k;
  Bytes bytes = 0;
  for (const LinearModule& module : bundle.input.modules) {
    bytes += 8 * k * count(module.out_features);
    if (config.codebook_search == CodebookSearch::lnq) bytes += 8 * k * k;
  }
  return bytes;
}

/// Of the factors that were made along with one and wait to be used, on the rank with the most.
Bytes waiting_factor_bytes(const LayerUnit& layer, const InputGroup& group,
                           const QuantizeConfig& config, int ranks) {
  if (config.method != Method::gptq) return 0;
  const std::vector<int> owners = assign_owners(layer.bundles, ranks);
  std::map<std::pair<int, std::int64_t>, std::size_t> factors;  // by rank and size
  for (const BundleUnit& bundle : group.bundles) {
    const int owner = owners[static_cast<std::size_t>(&bundle - layer.bundles.data())];
    std::set<std::int64_t> group_sizes;
    for (const auto& [module, grid] : bundle.modules) group_sizes.insert(grid.group_size);
    factors[{owner, bundle.input.features}] +=
        config.act_order == ActOrder::group_aware ? group_sizes.size() : 1;
  }
  Bytes most = 0;
  for (const auto& [place, made] : factors) {
    const std::int64_t columns = place.second;
    const std::size_t at_once = std::min(made, cuda_factors_at_once(columns));
    most = std::max(most, (Bytes{at_once} - 1) * 8 * count(columns * columns));
  }
  return most;
}

/// The panels of modules with so many rows in all, in groups of so many columns.
Bytes panel_bytes(Bytes k, Bytes rows, std::int64_t group_size) {
  const Bytes group = group_size < 1 ? k : std::min<Bytes>(k, count(group_size));
  const Bytes most_rows = std::max(kRowPanelElems / k, kRowUnit);
  return 8 * std::min(rows, most_rows) * (2 * k + group + kErrorSteps);
}

/// The factor of H, codes and panels while a bundle is solved, or what measures its error after
/// that.
Bytes grid_solver_bytes(const BundleUnit& bundle, const QuantizeConfig& config) {
  const Bytes k = count(bundle.input.features);
  const bool factors = config.method == Method::gptq;
  std::map<std::int64_t, Bytes> rows;  // by group size: those are solved side by side
  Bytes codes = 0;
  Bytes measure = 0;
  for (const auto& [module, grid] : bundle.modules) {
    const Bytes n = count(module.out_features);
    rows[grid.group_size] += (n + kRowUnit - 1) / kRowUnit * kRowUnit;
    codes += n * k + 3 * n * count(group_count(module.in_features, grid.group_size)) + 4 * k;
    const Bytes error_rows = std::min(n + kErrorChunk, std::max(kRowPanelElems / k, kErrorChunk));
    measure = std::max(measure, 6 * n * k + 8 * error_rows * (k + kErrorColumns));
  }
  Bytes panel = 0;
  for (const auto& [group_size, together] : rows) {
    panel = std::max(panel, panel_bytes(k, together, group_size));
  }
  const Bytes factor = factors ? 8 * k * (k + kFactorWorkColumns) : 0;
  return codes + std::max(factor + panel, measure + (factors ? 8 * k * k : 0));
}

/// The copy of F, float weights, masks, codes, candidates and sorted panels of one module, and the
/// results of those before it.
Bytes table_solver_bytes(const BundleUnit& bundle, const QuantizeConfig& config) {
  const Bytes k = count(bundle.input.features);
  const bool refines = config.codebook_search == CodebookSearch::lnq;
  Bytes results = 0;
  Bytes work = 0;
  for (const PlannedModule& planned : bundle.modules) {
    const Bytes elems = k * count(planned.module.out_features);
    const double outliers = config.sparsity.total() * static_cast<double>(elems);
    results += elems + static_cast<Bytes>(8 * outliers);
    const Bytes row = k * (64 + (Bytes{4} << planned.grid.bits));
    const Bytes clustering =
        24 * std::min(elems, kSortedPanelElems) + std::min(kClusterBytes, kClusterRows * row);
    const Bytes refining = 8 * k * k + 32 * std::min(elems, kRowPanelElems) + kOneHotBytes;
    work = std::max(work, 20 * elems + (refines ? std::max(clustering, refining) : clustering));
  }
  return results + work;
}

Bytes solver_bytes(const BundleUnit& bundle, const QuantizeConfig& config) {
  if (bundle.modules.empty()) return 0;
  return config.method == Method::squeezellm ? table_solver_bytes(bundle, config)
                                             : grid_solver_bytes(bundle, config);
}

/// A solved module's values on their way into the layer.
Bytes install_bytes(const BundleUnit& bundle, DType activation) {
  Bytes most = 0;
  for (const PlannedModule& planned : bundle.modules) {
    most = std::max(most, count(planned.module.out_features) * count(planned.module.in_features));
  }
  return most * (4 + dtype_bytes(activation));
}

/// Values per token of a micro-batch inside a layer, itself included.
Bytes forward_elems(const ModelGeometry& geometry) {
  const Bytes h = count(geometry.hidden);
  const Bytes i = count(geometry.intermediate);
  const Bytes q = count(geometry.heads * geometry.head_dim);
  const Bytes kv = count(geometry.kv_heads * geometry.head_dim);
  return 3 * h + std::max({h + 2 * q + 2 * kv, 2 * h + q, h + 2 * i});
}

Bytes backward_elems(const ModelGeometry& geometry) {
  const Bytes h = count(geometry.hidden);
  const Bytes i = count(geometry.intermediate);
  const Bytes q = count(geometry.heads * geometry.head_dim);
  const Bytes kv = count(geometry.kv_heads * geometry.head_dim);
  return 8 * h + 5 * i + 4 * q + 4 * kv + 2 * count(geometry.heads);
}

/// Values per token that lie between two groups of stages: the residual and what comes next.
Bytes state_elems(const ModelGraph& graph, const QuantizeConfig& config) {
  const Bytes hidden = count(graph.geometry.hidden);
  if (config.method == Method::squeezellm) return 2 * hidden;  // states or gradients, twice
  Bytes widest = 0;
  for (const LayerGraph& layer : graph.layers) {
    std::vector<Bytes> stages(static_cast<std::size_t>(layer.stages()));
    for (const LayerInput& input : layer.inputs) {
      stages[static_cast<std::size_t>(input.stage)] += count(input.features);
    }
    for (const Bytes features : stages) {
      widest = std::max(widest, features);
      if (!config.true_sequential) break;
    }
  }
  return (hidden + widest) * (config.propagation == Propagation::original ? 2 : 1);
}

/// The head with its logits; with lm_head also its statistics and solver.
Bytes head_bytes(const ModelGraph& graph, Bytes batch_tokens, DType activation) {
  const ModelGeometry& geometry = graph.geometry;
  const Bytes element = dtype_bytes(activation);
  const WeightBytes ends = weight_bytes(graph.tensors, geometry.dtype, activation);
  return ends.kept + ends.converted + 3 * kHeadRows * count(geometry.vocab) * element +
         4 * batch_tokens * count(geometry.hidden) * element;
}

WeightBytes largest_layer(const ModelGraph& graph, DType activation) {
  WeightBytes most;
  for (const LayerGraph& layer : graph.layers) {
    const WeightBytes bytes = weight_bytes(layer.tensors, graph.geometry.dtype, activation);
    most.kept = std::max(most.kept, bytes.kept);
    most.converted = std::max(most.converted, bytes.converted);
  }
  return most;
}

/// Where a phase outside the layers needs more, the difference counts as work.
void cover(DeviceNeeds& needs, Bytes bytes) {
  const Bytes least = needs.least_bytes() - needs.backend_bytes;
  if (bytes > least) needs.work_bytes += bytes - least;
}

}  // namespace

DeviceNeeds device_needs(const ModelGraph& graph, const Plan& plan, const RunFile& config,
                         const DeviceUse& use) {
  const QuantizeConfig& quantize = config.quantize;
  const ModelGeometry& geometry = graph.geometry;
  const Bytes element = dtype_bytes(use.activation);
  const std::int64_t sequences =
      std::min(config.calibration.micro_batch, config.calibration.samples);
  const Bytes tokens = count(sequences * config.calibration.text.sequence_length);
  const WeightBytes weights = largest_layer(graph, use.activation);
  const bool backward = quantize.method == Method::squeezellm;
  DeviceNeeds needs;
  needs.backend_bytes = kBackendBytes;
  needs.weight_bytes = 2 * weights.kept + weights.converted;
  if (quantize.method != Method::rtn) {
    needs.work_bytes =
        tokens * element * (backward ? backward_elems(geometry) : forward_elems(geometry));
    needs.state_bytes = tokens * element * state_elems(graph, quantize);
    const std::int64_t batches = (config.calibration.samples + config.calibration.micro_batch - 1) /
                                 config.calibration.micro_batch;
    needs.rounds = (batches + use.ranks - 1) / use.ranks;
  }
  if (backward) {
    needs.layer_input_bytes = tokens * element * count(geometry.hidden) * count(geometry.layers);
  }
  for (const LayerUnit& layer : plan.layers) {
    for (const InputGroup& group : input_groups(layer, quantize)) {
      const Bytes waiting = waiting_factor_bytes(layer, group, quantize, use.ranks);
      Bytes sums = 0;
      for (const BundleUnit& bundle : group.bundles) {
        sums += sums_bytes(bundle, quantize);
        needs.work_bytes = std::max({needs.work_bytes, waiting + solver_bytes(bundle, quantize),
                                     install_bytes(bundle, use.activation)});
      }
      needs.statistics_bytes = std::max(needs.statistics_bytes, sums);
    }
  }
  Bytes head = head_bytes(graph, tokens, use.activation);
  for (const BundleUnit& bundle : plan.head) {
    head += sums_bytes(bundle, quantize) + solver_bytes(bundle, quantize);
  }
  cover(needs, head);
  return needs;
}

DeviceNeeds evaluation_needs(const ModelGraph& graph, const EvaluationSize& size,
                             DType activation) {
  const ModelGeometry& geometry = graph.geometry;
  const Bytes element = dtype_bytes(activation);
  const Bytes tokens = count(size.batch_tokens);
  const WeightBytes weights = largest_layer(graph, activation);
  DeviceNeeds needs;
  needs.backend_bytes = kBackendBytes;
  needs.weight_bytes = 2 * weights.kept + weights.converted;
  needs.work_bytes = tokens * element * forward_elems(geometry);
  needs.state_bytes = tokens * element * count(geometry.hidden);
  needs.rounds = size.rounds;
  cover(needs, head_bytes(graph, tokens, activation));
  return needs;
}

DevicePlacement place_on_device(const DeviceNeeds& needs, std::uint64_t limit_bytes) {
  const Bytes rounds = count(needs.rounds);
  DevicePlacement placement{.states_on_device = needs.rounds, .state_bytes = needs.state_bytes};
  if (limit_bytes == std::numeric_limits<Bytes>::max()) return placement;
  const Bytes least = needs.least_bytes();
  const Bytes left = limit_bytes > least ? limit_bytes - least : 0;
  const Bytes fit = needs.state_bytes == 0 ? rounds : std::min(rounds, left / needs.state_bytes);
  placement.states_on_device = static_cast<std::int64_t>(fit);
  placement.host_bytes = (rounds - fit) * needs.state_bytes;
  placement.layer_input_bytes =
      std::min(left - fit * needs.state_bytes, rounds * needs.layer_input_bytes);
  return placement;
}

}  // namespace quern
