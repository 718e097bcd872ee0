#pragma once

#include <memory>
#include <span>
#include <vector>

#include "pipeline/flows/activations.h"
#include "pipeline/model/forward.h"
#include "pipeline/model/layer_loader.h"
#include "pipeline/progress.h"
#include "pipeline/run_context.h"
#include "pipeline/stages/calibrate.h"
#include "pipeline/stages/quantize.h"
#include "pipeline/statistics_store.h"

namespace quern {

/// The walk over the layers: forward, statistics, solve, commit, forward with what was committed.
/// Collective; the same on every rank. Resumes from whatever the store holds.
class QuantizeFlow {
 public:
  /// statistics: where H is kept for other runs (propagation original only); nullptr: nowhere.
  QuantizeFlow(RunContext& context, QuantizeBundles& quantize, const MicroBatches& batches,
               StatisticsStore* statistics, Progress& progress);

  /// Throws Interrupted between units when a signal asks for it.
  void run();

 private:
  std::int64_t first_open_layer() const;
  bool committed(const BundleUnit& bundle) const;
  bool original_propagation() const;
  std::int64_t start_activations(std::int64_t first_open);
  void replay_layer(std::int64_t layer);
  void process_layer(const LayerUnit& unit);
  void process_group(const LayerUnit& unit, const InputGroup& group, LayerWeights& weights,
                     DecoderBlock& block);
  void solve_missing(const LayerUnit& unit, const InputGroup& group, const LayerWeights& weights,
                     DecoderBlock& block);
  void solve_measured(std::span<const BundleUnit* const> missing, std::span<const int> owners,
                      Calibrate& measured, const LayerWeights& weights);
  std::unique_ptr<Calibrate> measure(const InputGroup& group,
                                     std::span<const BundleUnit* const> missing,
                                     const LayerWeights& weights, DecoderBlock& block);
  void measure_batch(const InputGroup& group, std::span<const BundleUnit* const> missing,
                     const LayerWeights& weights, DecoderBlock& block, Calibrate& statistics,
                     std::int64_t round);
  void advance(const InputGroup& group, const LayerWeights& weights, DecoderBlock& block);
  void process_head();
  bool needs_outputs(std::int64_t layer) const;

  RunContext& context_;
  Progress& progress_;
  QuantizeBundles& quantize_;
  StatisticsStore* statistics_;
  LayerLoader loader_;
  Forward forward_;
  Activations activations_;
  RoundStates outputs_;  ///< what the measured pass of original propagation leaves
};

}  // namespace quern
