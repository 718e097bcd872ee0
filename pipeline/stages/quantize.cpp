#include "pipeline/stages/quantize.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "kernels/core/error.h"
#include "workers/agreement.h"
#include "workers/files/hash.h"

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

}  // namespace

QuantizeBundles::QuantizeBundles(RunContext& context)
    : context_(context), quantizer_(make_quantizer(context.config.quantize)) {}

double QuantizeBundles::relative_error(ConstTensorView weight, ConstTensorView dequantized,
                                       const std::optional<GramView>& gram) {
  Backend& backend = *context_.session.backend;
  Memory& memory = backend.memory();
  if (!gram) {
    Tensor single = memory.allocate(DType::f32, weight.shape);
    backend.layers().convert(weight, single.view());
    return plain_relative_error(memory.to_host(single.view()), memory.to_host(dequantized));
  }
  Tensor result = memory.allocate(DType::f64, {2});
  backend.solver().quadratic_error(weight, dequantized, *gram, result.view());
  const HostTensor host = memory.to_host(result.view());
  const auto values = host.as<double>();
  return values[1] > 0.0 ? values[0] / values[1] : 0.0;
}

QuantizedModule QuantizeBundles::finish(const PlannedModule& planned, const SolvedModule& solved,
                                        ConstTensorView weight, const BundleTask& task) {
  Backend& backend = *context_.session.backend;
  Memory& memory = backend.memory();
  const auto& [module, grid] = planned;
  Tensor words = memory.allocate(DType::i32,
                                 {(module.in_features * grid.bits + 31) / 32, module.out_features});
  backend.solver().pack(solved.tensor.codes.view(), grid.bits, words.view());
  Tensor dequantized = memory.allocate(DType::f32, weight.shape);
  backend.solver().dequantize(solved.tensor, dequantized.view());
  QuantizedModule result;
  result.name = module.name;
  result.out_features = module.out_features;
  result.in_features = module.in_features;
  result.bits = grid.bits;
  result.group_size = grid.group_size;
  result.symmetric = grid.symmetric;
  result.words = memory.to_host(words.view());
  result.scales = memory.to_host(solved.tensor.scales.view());
  result.zeros = memory.to_host(solved.tensor.zeros.view());
  result.group_of = memory.to_host(solved.tensor.group_of.view());
  result.metrics.relative_error = relative_error(weight, dequantized.view(), task.gram);
  result.metrics.damping_fraction = solved.damping_fraction;
  result.metrics.dead_columns = solved.dead_columns;
  result.metrics.dequantized_hash = xxh3_hex(memory.to_host(dequantized.view()).bytes);
  return result;
}

std::vector<QuantizedModule> QuantizeBundles::solve_bundle(const BundleTask& task,
                                                           const LayerWeights& weights) {
  std::vector<ModuleTask> modules;
  for (const auto& [module, grid] : task.bundle->modules) {
    modules.push_back({module.name, weights.weight(module.role), grid});
  }
  const auto solved = quantizer_->solve(*context_.session.backend, modules, task.gram);
  std::vector<QuantizedModule> results;
  for (std::size_t i = 0; i < solved.size(); ++i) {
    results.push_back(finish(task.bundle->modules[i], solved[i], modules[i].weight, task));
    const QuantizedModule& result = results.back();
    context_.session.log->debug("{}: relative error {:.3e}", result.name,
                                result.metrics.relative_error);
    if (result.metrics.damping_fraction > context_.config.quantize.damping) {
      context_.session.log->warn("{}: H is not positive definite; damping grew from {} to {}",
                                 result.name, context_.config.quantize.damping,
                                 result.metrics.damping_fraction);
    }
  }
  return results;
}

void QuantizeBundles::solve(std::span<const BundleTask> tasks, const LayerWeights& weights) {
  std::vector<JournalEntry> written;
  run_agreed(context_.session, [&] {
    for (const BundleTask& task : tasks) {
      if (task.owner != context_.session.rank()) continue;
      context_.session.enter(fmt::format("solve {}", task.bundle->name));
      std::vector<QuantizedModule> modules;
      {
        const auto lap = context_.watch.lap("solve");
        modules = solve_bundle(task, weights);
      }
      const auto lap = context_.watch.lap("commit");
      written.push_back(context_.store.write(task.bundle->name, to_bundle(modules)));
    }
  });
  const auto lap = context_.watch.lap("commit");
  context_.session.enter("acknowledge bundles");
  acknowledge(context_, written);
}

void QuantizeBundles::install(const BundleUnit& bundle, int owner, LayerWeights& weights) {
  Session& session = context_.session;
  Backend& backend = *session.backend;
  Memory& memory = backend.memory();
  std::vector<HostTensor> dequantized;
  run_agreed(session, [&] {
    if (owner != session.rank()) return;
    const auto stored = context_.store.read(bundle.name);
    if (!stored)
      throw StoreError(
          fmt::format("{}: the committed bundle cannot be read back; check "
                      "the file system, then run again",
                      bundle.name));
    for (const QuantizedModule& module : from_bundle(*stored)) {
      dequantized.push_back(dequantize_on_host(module));
    }
  });
  for (std::size_t i = 0; i < bundle.modules.size(); ++i) {
    const LinearModule& module = bundle.modules[i].module;
    Tensor single = memory.allocate(DType::f32, {module.out_features, module.in_features});
    if (owner == session.rank()) {
      memory.upload(dequantized[i].bytes, single.view());
      memory.synchronize();
    }
    session.communicator->broadcast(single.view(), owner);
    Tensor weight = memory.allocate(backend.activation_dtype(), single.shape());
    backend.layers().convert(single.view(), weight.view());
    weights.set(module.role, Part::weight, std::move(weight));
  }
}

}  // namespace quern
