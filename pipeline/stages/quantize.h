#pragma once

#include <memory>
#include <vector>

#include "kernels/statistics_ops.h"
#include "pipeline/model/decoder_block.h"
#include "pipeline/plan.h"
#include "pipeline/quantized_module.h"
#include "pipeline/quantizers/quantizer.h"
#include "pipeline/run_context.h"

namespace quern {

/// A bundle to be solved by this job, with the rank that does it and, on that rank, its H.
struct BundleTask {
  const BundleUnit* bundle;
  int owner;
  std::optional<GramView> gram;
};

/// Solves bundles on their owners and commits them to the store.
class QuantizeBundles {
 public:
  explicit QuantizeBundles(RunContext& context);

  /// Collective. On return the bundles are durable and acknowledged on every rank.
  void solve(std::span<const BundleTask> tasks, const LayerWeights& weights);

  /// Collective. Replaces the weights of a committed bundle's modules by their dequantized values;
  /// the owner reads them from the store unless it has just solved them.
  void install(const BundleUnit& bundle, int owner, LayerWeights& weights);

 private:
  std::vector<QuantizedModule> solve_bundle(const BundleTask& task, const LayerWeights& weights);
  QuantizedModule finish(const PlannedModule& planned, const SolvedModule& solved,
                         ConstTensorView weight, const BundleTask& task);
  double relative_error(ConstTensorView weight, ConstTensorView dequantized,
                        const std::optional<GramView>& gram);

  RunContext& context_;
  std::unique_ptr<Quantizer> quantizer_;
};

}  // namespace quern
