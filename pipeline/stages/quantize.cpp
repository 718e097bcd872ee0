#include "pipeline/stages/quantize.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <bit>
#include <filesystem>
#include <utility>

#include "kernels/core/error.h"
#include "kernels/core/fingerprint.h"
#include "workers/agreement.h"

namespace quern {
namespace {

/// sum (w - q)^2 / sum w^2 of two [N, K] f32 tensors on the host.
double plain_relative_error(const HostTensor& weight, const HostTensor& dequantized) {
  double error = 0.0;
  double energy = 0.0;
  const auto w = weight.as<float>();
  const auto q = dequantized.as<float>();
  for (std::size_t i = 0; i < w.size(); ++i) {
    const double difference = static_cast<double>(w[i]) - static_cast<double>(q[i]);
    error += difference * difference;
    energy += static_cast<double>(w[i]) * static_cast<double>(w[i]);
  }
  return energy > 0.0 ? error / energy : 0.0;
}

/// A solver's result, as it is stored: its values on the host, and what they dequantize to.
struct Stored {
  std::variant<UniformGrid, Codebook> values;
  std::int64_t outliers = 0;
};

Stored store_values(Backend& backend, const QuantizedTensor& tensor, TensorView dequantized) {
  Memory& memory = backend.memory();
  backend.solver().dequantize(tensor, dequantized);
  return {UniformGrid{memory.to_host(tensor.scales.view()), memory.to_host(tensor.zeros.view()),
                      memory.to_host(tensor.group_of.view())},
          0};
}

Stored store_values(Backend& backend, const CodebookTensor& tensor, TensorView dequantized) {
  Memory& memory = backend.memory();
  backend.codebooks().dequantize(tensor, dequantized);
  return {Codebook{memory.to_host(tensor.table.view()), memory.to_host(tensor.rows.view()),
                   memory.to_host(tensor.cols.view()), memory.to_host(tensor.vals.view())},
          tensor.vals.shape().elems()};
}

std::string fingerprint_of(Backend& backend, ConstTensorView values) {
  Tensor sum = backend.memory().allocate(DType::i64, {1});
  backend.layers().fingerprint(values, sum.view());
  const HostTensor host = backend.memory().to_host(sum.view());
  return fingerprint_text(std::bit_cast<std::uint64_t>(host.as<std::int64_t>()[0]));
}

}  // namespace

void keep_statistics(RunContext& context, StatisticsStore& store,
                     std::span<const BundleTask> measured) {
  const auto lap = context.watch.lap("keep statistics");
  std::vector<JournalEntry> written;
  run_agreed(context.session, [&] {
    for (const BundleTask& task : measured) {
      if (task.owner != context.session.rank()) continue;
      context.session.enter("keep statistics of " + task.bundle->name);
      for (JournalEntry& entry : store.write(*task.bundle, *task.statistics)) {
        written.push_back(std::move(entry));
      }
    }
  });
  store.acknowledge(written);
}

QuantizeBundles::QuantizeBundles(RunContext& context, const Allocation& allocation)
    : context_(context),
      allocation_(allocation),
      quantizer_(make_quantizer(context.config.quantize)),
      writer_(context),
      installs_(quantizer_->needed().gram && !quantizer_->needed().backward() &&
                context.config.quantize.propagation == Propagation::quantized) {}

void QuantizeBundles::measure_error(const ModuleTask& task, ConstTensorView dequantized,
                                    BundleStatistics& statistics, ModuleMetrics& metrics) {
  Backend& backend = *context_.session.backend;
  Memory& memory = backend.memory();
  const auto measured = statistics.modules.find(task.name);
  const bool has_fisher = measured != statistics.modules.end() && measured->second.fisher;
  if (!has_fisher && !statistics.gram) {
    Tensor single = memory.allocate(DType::f32, task.weight.shape);
    backend.layers().convert(task.weight, single.view());
    metrics.relative_error =
        plain_relative_error(memory.to_host(single.view()), memory.to_host(dequantized));
    return;
  }
  Tensor result = memory.allocate(DType::f64, {2});
  if (has_fisher) {
    backend.codebooks().weighted_error(task.weight, dequantized, measured->second.fisher->view(),
                                       result.view());
  } else {
    backend.solver().quadratic_error(task.weight, dequantized, statistics.gram->view(),
                                     result.view());
  }
  const HostTensor host = memory.to_host(result.view());
  const auto values = host.as<double>();
  metrics.relative_error = values[1] > 0.0 ? values[0] / values[1] : 0.0;
  if (has_fisher) metrics.objective = values[0];
}

QuantizedModule QuantizeBundles::finish(const LinearModule& module, const ModuleTask& task,
                                        const SolvedModule& solved, BundleStatistics& statistics) {
  Backend& backend = *context_.session.backend;
  Memory& memory = backend.memory();
  const GridSpec& grid = task.grid;
  const bool codebook = std::holds_alternative<CodebookTensor>(solved.tensor);
  Tensor words = memory.allocate(DType::i32,
                                 {(module.in_features * grid.bits + 31) / 32, module.out_features});
  Tensor dequantized = memory.allocate(DType::f32, task.weight.shape);
  QuantizedModule result;
  result.name = module.name;
  result.out_features = module.out_features;
  result.in_features = module.in_features;
  result.bits = grid.bits;
  result.group_size = codebook ? -1 : grid.group_size;
  result.symmetric = grid.symmetric;
  if (context_.config.quantize.codebook_type == CodebookType::float16) {
    result.table_dtype = DType::f16;
  }
  std::visit(
      [&](const auto& tensor) {
        backend.solver().pack(tensor.codes.view(), grid.bits, words.view());
        Stored stored = store_values(backend, tensor, dequantized.view());
        result.values = std::move(stored.values);
        result.outliers = stored.outliers;
      },
      solved.tensor);
  result.words = memory.to_host(words.view());
  measure_error(task, dequantized.view(), statistics, result.metrics);
  result.metrics.damping_fraction = solved.damping_fraction;
  result.metrics.dead_columns = solved.dead_columns;
  result.metrics.uninformed_rows = solved.uninformed_rows;
  result.metrics.dequantized_hash = fingerprint_of(backend, dequantized.view());
  if (installs_) {
    Tensor weight = memory.allocate(backend.activation_dtype(), task.weight.shape);
    backend.layers().convert(dequantized.view(), weight.view());
    solved_[module.name] = std::move(weight);
  }
  return result;
}

std::vector<QuantizedModule> QuantizeBundles::solve_bundle(const BundleTask& task,
                                                           const LayerWeights& weights) {
  const QuantizeConfig& config = context_.config.quantize;
  std::vector<ModuleTask> modules;
  for (const PlannedModule& planned : task.bundle->modules) {
    modules.push_back(make_task(planned, weights.weight(planned.module.role), config, allocation_));
  }
  BundleStatistics none;
  BundleStatistics& statistics = task.statistics == nullptr ? none : *task.statistics;
  const auto solved = quantizer_->solve(*context_.session.backend, modules, statistics);
  std::vector<QuantizedModule> results;
  for (std::size_t i = 0; i < solved.size(); ++i) {
    results.push_back(finish(task.bundle->modules[i].module, modules[i], solved[i], statistics));
    const QuantizedModule& result = results.back();
    context_.session.log->debug("{}: relative error {:.3e}", result.name,
                                result.metrics.relative_error);
    if (result.metrics.damping_fraction > config.damping) {
      context_.session.log->warn("{}: H is not positive definite; damping grew from {} to {}",
                                 result.name, config.damping, result.metrics.damping_fraction);
    }
  }
  return results;
}

void QuantizeBundles::solve(std::span<const BundleTask> tasks, const LayerWeights& weights) {
  solved_.clear();
  std::vector<std::pair<const BundleUnit*, std::vector<QuantizedModule>>> results;
  run_agreed(context_.session, [&] {
    const auto lap = context_.watch.lap("solve");
    for (const BundleTask& task : tasks) {
      if (task.owner != context_.session.rank()) continue;
      context_.session.enter(fmt::format("solve {}", task.bundle->name));
      const Trace::Span span(context_.session.trace.get(), task.bundle->name);
      results.emplace_back(task.bundle, solve_bundle(task, weights));
    }
  });
  const auto folder = std::filesystem::path(tasks.front().bundle->name).parent_path().string();
  if (folder != unsettled_) settle();
  unsettled_ = folder;
  run_agreed(context_.session, [&] {
    for (auto& [bundle, modules] : results) writer_.write(*bundle, std::move(modules));
  });
}

/// The weights of a bundle's modules in the activation type, on its owner.
std::vector<Tensor> QuantizeBundles::dequantized(const BundleUnit& bundle) {
  Memory& memory = context_.session.backend->memory();
  std::vector<Tensor> weights;
  if (solved_.contains(bundle.modules.front().module.name)) {
    for (const PlannedModule& planned : bundle.modules) {
      weights.push_back(std::move(solved_.extract(planned.module.name).mapped()));
    }
    return weights;
  }
  auto stored = context_.store.read(bundle.name);
  if (!stored) {
    throw StoreError(fmt::format(
        "{}: the committed bundle cannot be read back; check the file system, then run again",
        bundle.name));
  }
  for (const QuantizedModule& module : from_bundle(std::move(*stored))) {
    const Tensor single = memory.to_device(dequantize_on_host(module));
    weights.push_back(
        memory.allocate(context_.session.backend->activation_dtype(), single.shape()));
    context_.session.backend->layers().convert(single.view(), weights.back().view());
  }
  return weights;
}

void QuantizeBundles::install(const BundleUnit& bundle, int owner, LayerWeights& weights) {
  Session& session = context_.session;
  std::vector<Tensor> own;
  run_agreed(session, [&] {
    if (owner == session.rank()) own = dequantized(bundle);
  });
  for (std::size_t i = 0; i < bundle.modules.size(); ++i) {
    const LinearModule& module = bundle.modules[i].module;
    Tensor weight = owner == session.rank() ? std::move(own[i])
                                            : session.backend->memory().allocate(
                                                  session.backend->activation_dtype(),
                                                  {module.out_features, module.in_features});
    session.communicator->broadcast(weight.view(), owner);
    weights.set(module.role, Part::weight, std::move(weight));
  }
}

}  // namespace quern
