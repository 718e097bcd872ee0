#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "pipeline/allocation.h"
#include "pipeline/bundle_writer.h"
#include "pipeline/model/decoder_block.h"
#include "pipeline/plan.h"
#include "pipeline/quantized_module.h"
#include "pipeline/quantizers/quantizer.h"
#include "pipeline/run_context.h"
#include "pipeline/statistics_store.h"

namespace quern {

/// A bundle to be solved by this job, with the rank that does it and, on that rank, what was
/// measured for it.
struct BundleTask {
  const BundleUnit* bundle;
  int owner;
  BundleStatistics* statistics;
};

/// Collective. Writes what the owners of these bundles measured into the statistics directory.
void keep_statistics(RunContext& context, StatisticsStore& store,
                     std::span<const BundleTask> measured);

/// Solves bundles on their owners and commits them to the store.
class QuantizeBundles {
 public:
  /// allocation: outlives this object.
  QuantizeBundles(RunContext& context, const Allocation& allocation);

  /// What the configured method wants to know of each bundle.
  StatisticsNeeded needed() const noexcept { return quantizer_->needed(); }

  /// Collective. The bundles are on their way to the store; those of one folder are acknowledged
  /// together, before the first of the next one is handed over.
  void solve(std::span<const BundleTask> tasks, const LayerWeights& weights);

  /// Collective. On return every solved bundle is durable and acknowledged on every rank.
  void settle() { writer_.settle(unsettled_); }

  /// Collective. Replaces the weights of a solved bundle's modules by their dequantized values; the
  /// owner reads them from the store unless it has just solved them.
  void install(const BundleUnit& bundle, int owner, LayerWeights& weights);

 private:
  std::vector<QuantizedModule> solve_bundle(const BundleTask& task, const LayerWeights& weights);
  QuantizedModule finish(const LinearModule& module, const ModuleTask& task,
                         const SolvedModule& solved, BundleStatistics& statistics);
  std::vector<Tensor> dequantized(const BundleUnit& bundle);
  void measure_error(const ModuleTask& task, ConstTensorView dequantized,
                     BundleStatistics& statistics, ModuleMetrics& metrics);

  RunContext& context_;
  const Allocation& allocation_;
  std::unique_ptr<Quantizer> quantizer_;
  BundleWriter writer_;
  bool installs_;                         ///< later layers see what was solved
  std::string unsettled_;                 ///< folder of the bundles handed over last
  std::map<std::string, Tensor> solved_;  ///< by module, to be installed
};

}  // namespace quern
