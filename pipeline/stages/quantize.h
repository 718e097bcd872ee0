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
  int owner;                     ///< commits it
  BundleStatistics* statistics;  ///< not null where it is solved
  /// Every rank has weights and statistics, and solves rows of it; see shares().
  bool shared = false;
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

  /// Whether all ranks should share a bundle that is solved along with `bundles` - 1 others: alone,
  /// it would keep every rank but one waiting.
  bool shares(std::size_t bundles) const noexcept {
    return bundles == 1 && context_.session.ranks() > 1 && quantizer_->splits_rows();
  }

  /// Collective. The bundles are on their way to the store, where those of one folder are a batch.
  void solve(std::span<const BundleTask> tasks, const LayerWeights& weights);

  /// Collective. On return every solved bundle is durable and acknowledged on every rank.
  void settle() { writer_.settle(); }

  /// Collective. Replaces the weights of a solved bundle's modules by their dequantized values; the
  /// owner reads them from the store unless it has just solved them.
  void install(const BundleUnit& bundle, int owner, LayerWeights& weights);

 private:
  /// A bundle on its way through solve(). Everything is as the owner has it, but the rows.
  struct SolvedBundle {
    const BundleTask* task;
    std::vector<ModuleTask> modules;
    std::vector<SolvedModule> solved;
    Tensor errors;  ///< [rows of all modules, 2] f64, see measure_errors()
  };

  std::vector<SolvedBundle> own_share(std::span<const BundleTask> tasks,
                                      const LayerWeights& weights) const;
  void solve_rows(std::span<SolvedBundle> bundles);
  void join_rows(SolvedBundle& bundle);
  LandedModules land(const SolvedBundle& bundle);
  Tensor finish(const ModuleTask& task, const SolvedModule& solved, TensorView fingerprint);
  QuantizedModule describe(const LinearModule& module, const ModuleTask& task,
                           const SolvedModule& solved) const;
  void measure_errors(SolvedBundle& bundle);
  void measure_errors(const ModuleTask& task, const SolvedModule& solved,
                      BundleStatistics& statistics, TensorView errors);
  void read_measured(const HostTensor& errors, const HostTensor& fingerprints,
                     const BundleStatistics& statistics, std::span<QuantizedModule> modules);
  ConstTensorView ones(const Shape& shape);
  std::vector<Tensor> dequantized(const BundleUnit& bundle);

  RunContext& context_;
  const Allocation& allocation_;
  std::unique_ptr<Quantizer> quantizer_;
  LandingBuffers landing_buffers_;
  BundleWriter writer_;
  bool installs_;                         ///< later layers see what was solved
  std::map<std::string, Tensor> solved_;  ///< by module, to be installed
  Tensor ones_;
};

}  // namespace quern
