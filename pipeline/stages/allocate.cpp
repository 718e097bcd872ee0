#include "pipeline/stages/allocate.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "pipeline/bundle_shares.h"
#include "pipeline/model/read_ahead.h"
#include "pipeline/model_budget.h"
#include "workers/agreement.h"

namespace quern {
namespace {

constexpr const char* kFile = "allocation.h5";

DType table_dtype(const QuantizeConfig& config) {
  return config.codebook_type == CodebookType::float16 ? DType::f16 : DType::f32;
}

/// The weights of a module on this rank's device, in the type they are stored in.
Tensor read_weight(RunContext& context, const LinearModule& module) {
  return context.session.backend->memory().to_device(
      context.model.weights->read(module.weight_name()));
}

std::vector<std::string> weight_names(const BundleUnit& bundle) {
  std::vector<std::string> names;
  for (const PlannedModule& planned : bundle.modules) {
    names.push_back(planned.module.weight_name());
  }
  return names;
}

/// The weights of a bundle on this rank's device, in the types they are stored in.
std::vector<Tensor> upload_weights(Memory& memory, const BundleUnit& bundle,
                                   const std::vector<HostView>& views) {
  std::vector<Tensor> weights;
  for (std::size_t i = 0; i < views.size(); ++i) {
    const PlannedModule& planned = bundle.modules[i];
    weights.push_back(
        memory.allocate(views[i].dtype, {planned.module.out_features, planned.module.in_features}));
    memory.upload(views[i].bytes, weights.back().view());
  }
  memory.synchronize();
  return weights;
}

/// Counts the weights of this rank's share of the bundles; the next one is read meanwhile.
void count_own_ranges(RunContext& context, TensorView counts) {
  Backend& backend = *context.session.backend;
  ReadAhead reads(context.session, *context.model.weights);
  const std::vector<const BundleUnit*> bundles = own_bundles(context);
  for (std::size_t i = 0; i < bundles.size(); ++i) {
    const std::vector<Tensor> weights =
        upload_weights(backend.memory(), *bundles[i], reads.take(weight_names(*bundles[i])));
    if (i + 1 < bundles.size()) reads.start(weight_names(*bundles[i + 1]));
    for (const Tensor& weight : weights) backend.codebooks().count_ranges(weight.view(), counts);
  }
}

std::optional<double> find_quartile_range(RunContext& context) {
  Memory& memory = context.session.backend->memory();
  Tensor counts = memory.allocate(DType::i64, {CodebookSolver::range_bins});
  memory.clear(counts.view());
  context.session.enter("outlier threshold");
  run_agreed(context.session, [&] { count_own_ranges(context, counts.view()); });
  HostTensor host = memory.to_host(counts.view());
  context.session.communicator->sum(host.as<std::int64_t>());
  const auto weights = static_cast<double>(context.plan.planned_weights());
  const auto budget = std::llround(context.config.quantize.sparsity.magnitude * weights);
  return quartile_range_for(host.as<std::int64_t>(), budget);
}

ErrorCurve measure_curve(Backend& backend, ConstTensorView weight, ConstTensorView fisher,
                         const CodebookSpec& spec) {
  Memory& memory = backend.memory();
  CodebookSolver& solver = backend.codebooks();
  const CodebookTensor tensor = solver.cluster(weight, fisher, std::nullopt, spec);
  Tensor values = memory.allocate(DType::f32, weight.shape);
  Tensor error = memory.allocate(DType::f64, {2});
  Tensor counts = memory.allocate(DType::i64, {CodebookSolver::gain_bins});
  Tensor sums = memory.allocate(DType::f64, {CodebookSolver::gain_bins});
  solver.dequantize(tensor, values.view());
  solver.weighted_error(weight, values.view(), fisher, error.view());
  solver.count_gains(weight, values.view(), fisher, counts.view(), sums.view());
  const HostTensor host_error = memory.to_host(error.view());
  const HostTensor host_counts = memory.to_host(counts.view());
  const HostTensor host_sums = memory.to_host(sums.view());
  ErrorCurve curve{spec.bits, host_error.as<double>()[0], {}, {}};
  curve.counts.assign(host_counts.as<std::int64_t>().begin(), host_counts.as<std::int64_t>().end());
  curve.sums.assign(host_sums.as<double>().begin(), host_sums.as<double>().end());
  return curve;
}

/// widths: the bits to try; empty: those planned.
nlohmann::json measure_bundle(RunContext& context, const StatisticsStore& statistics,
                              const BundleUnit& bundle, const std::vector<int>& widths) {
  Backend& backend = *context.session.backend;
  const QuantizeConfig& config = context.config.quantize;
  BundleStatistics measured = statistics.read(bundle, {.fisher = true});
  nlohmann::json modules = nlohmann::json::array();
  for (const PlannedModule& planned : bundle.modules) {
    context.session.enter("error of " + planned.module.name);
    const Tensor weight = read_weight(context, planned.module);
    Tensor& fisher = *measured.modules.at(planned.module.name).fisher;
    nlohmann::json curves = nlohmann::json::array();
    for (const int bits : widths.empty() ? std::vector{planned.grid.bits} : widths) {
      const ErrorCurve curve =
          measure_curve(backend, weight.view(), fisher.view(), {bits, table_dtype(config)});
      curves.push_back({{"bits", curve.bits},
                        {"objective", curve.objective},
                        {"counts", curve.counts},
                        {"sums", curve.sums}});
    }
    modules.push_back({{"name", planned.module.name},
                       {"out_features", planned.module.out_features},
                       {"in_features", planned.module.in_features},
                       {"curves", curves}});
  }
  return modules;
}

FusedModules read_group(const nlohmann::json& rows) {
  FusedModules group;
  for (const auto& row : rows) {
    ModuleCurves module{row.at("name"), row.at("out_features"), row.at("in_features"), {}};
    for (const auto& curve : row.at("curves")) {
      module.curves.push_back(
          {curve.at("bits"), curve.at("objective"), curve.at("counts"), curve.at("sums")});
    }
    group.push_back(std::move(module));
  }
  return group;
}

/// measured: what measure_bundle() says of each bundle. In order of their names, which does not
/// show how many ranks there are.
std::map<std::string, ModuleAllocation> decide(const RunContext& context,
                                               const nlohmann::json& measured) {
  const QuantizeConfig& config = context.config.quantize;
  const std::int64_t weights = context.plan.planned_weights();
  std::vector<FusedModules> model;
  for (const nlohmann::json& rows : measured) model.push_back(read_group(rows));
  if (!config.target_bits) {
    return allocate_outliers(model,
                             std::llround(config.sparsity.total() * static_cast<double>(weights)));
  }
  return allocate_bits(model, {.weights = weights,
                               .target_bits = *config.target_bits,
                               .table_entry_bits = table_entry_bits(config),
                               .outlier_fraction = config.sparsity.total()});
}

std::map<std::string, ModuleAllocation> allocate_modules(RunContext& context,
                                                         const StatisticsStore& statistics) {
  std::vector<int> widths;
  if (context.config.quantize.target_bits) {
    widths = candidate_bits(context.plan, context.config.quantize);
  }
  const nlohmann::json measured = gather_by_bundle(context, [&](const BundleUnit& bundle) {
    return measure_bundle(context, statistics, bundle, widths);
  });
  std::map<std::string, ModuleAllocation> modules;
  run_agreed(context.session, [&] {
    if (context.session.is_root()) modules = decide(context, measured);
  });
  return modules;
}

/// Collective: the allocation in the run's store.
Allocation read_stored(RunContext& context) {
  Allocation stored;
  run_agreed(context.session, [&] {
    const auto file = context.store.read(kFile);
    if (!file) throw StoreError("allocation.h5: cannot be read back; run again");
    stored = read_allocation(nlohmann::json::parse(file->attributes));
  });
  return stored;
}

/// Collective: rank 0's allocation, stored and known to all.
Allocation settle(RunContext& context, const Allocation& allocation) {
  std::vector<JournalEntry> written;
  run_agreed(context.session, [&] {
    if (!context.session.is_root()) return;
    written.push_back(context.store.write(kFile, {to_json(allocation).dump(), {}}));
  });
  acknowledge(context.session, context.store, written);
  return read_stored(context);
}

}  // namespace

Allocation allocate(RunContext& context, const StatisticsStore* statistics) {
  const QuantizeConfig& config = context.config.quantize;
  const bool by_range = config.method == Method::squeezellm && config.sparsity.magnitude > 0.0;
  if (!by_range && !allocates_by_statistics(config)) return {};
  set_aside_damaged(context.session, context.store, {kFile});
  if (context.store.contains(kFile)) return read_stored(context);
  const auto lap = context.watch.lap("allocate");
  Allocation allocation;
  if (by_range) allocation.quartile_range = find_quartile_range(context);
  if (allocates_by_statistics(config)) {
    ensure(statistics != nullptr, "statistics to allocate by");
    allocation.modules = allocate_modules(context, *statistics);
  }
  return settle(context, allocation);
}

}  // namespace quern
