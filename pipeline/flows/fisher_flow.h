#pragma once

#include <functional>
#include <span>
#include <vector>

#include "pipeline/flows/activations.h"
#include "pipeline/flows/layer_inputs.h"
#include "pipeline/model/forward.h"
#include "pipeline/model/layer_loader.h"
#include "pipeline/progress.h"
#include "pipeline/run_context.h"
#include "pipeline/stages/fisher.h"
#include "pipeline/statistics.h"

namespace quern {

/// A bundle whose statistics have just been measured; they are on the owner, elsewhere empty.
struct MeasuredBundle {
  const BundleUnit* bundle;
  int owner;
  BundleStatistics statistics;
};

/// The walk forward through the original model and back: the statistics of a layer are complete
/// when the backward pass leaves it. Collective; the same on every rank. Resumes from the latest
/// saved gradients.
class FisherFlow {
 public:
  FisherFlow(RunContext& context, const MicroBatches& batches, const StatisticsNeeded& needed,
             Progress& progress);

  /// Takes the measured bundles of a layer, with its weights. Collective.
  using Consume = std::function<void(std::vector<MeasuredBundle>&, const LayerWeights&)>;

  /// Measures the inputs of `wanted`, layer by layer from the last. Throws Interrupted between
  /// layers when a signal asks for it.
  void run(std::span<const BundleUnit* const> wanted, const Consume& consume);

 private:
  std::vector<const BundleUnit*> wanted_of(const LayerUnit& unit) const;
  std::int64_t start_gradients(std::int64_t lowest, std::int64_t highest);
  void forward(std::int64_t lowest, std::int64_t layers);
  void loss();
  void backward(const LayerUnit& unit, const Consume& consume);
  void pass(const LayerUnit& unit, const LayerWeights& weights, FisherSums& sums);
  LayerWeights load(std::int64_t layer, std::int64_t next);

  RunContext& context_;
  const MicroBatches& batches_;
  StatisticsNeeded needed_;
  Progress& progress_;
  LayerLoader loader_;
  Forward forward_;
  LayerInputs inputs_;
  Activations gradients_;  ///< the residuals are gradients at the input of the layer done last
  RoundStates next_;       ///< the same at the input of the layer in hand
  std::vector<const BundleUnit*> wanted_;
};

}  // namespace quern
