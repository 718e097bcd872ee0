#include "pipeline/flows/quantize_flow.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "kernels/core/error.h"
#include "pipeline/device/device_memory.h"
#include "pipeline/run_weights.h"

namespace quern {
namespace {

/// Owners of a layer's bundles, by address.
int owner_of(const BundleUnit* bundle, const std::vector<BundleUnit>& bundles, int ranks) {
  const auto index = static_cast<std::size_t>(bundle - bundles.data());
  return assign_owners(bundles, ranks)[index];
}

}  // namespace

QuantizeFlow::QuantizeFlow(RunContext& context, QuantizeBundles& quantize,
                           const MicroBatches& batches, StatisticsStore* statistics,
                           Progress& progress)
    : context_(context),
      progress_(progress),
      quantize_(quantize),
      statistics_(statistics),
      loader_(context.session, *context.model.weights),
      forward_(context.session, context.model.graph, batches.sequence_length()),
      activations_(context, batches, states_of(placement_of(context))),
      outputs_(context.session.backend->memory(), states_of(placement_of(context))) {}

bool QuantizeFlow::original_propagation() const {
  return context_.config.quantize.propagation == Propagation::original;
}

bool QuantizeFlow::committed(const BundleUnit& bundle) const {
  return bundle.modules.empty() || context_.store.contains(bundle.name);
}

std::int64_t QuantizeFlow::first_open_layer() const {
  for (const LayerUnit& unit : context_.plan.layers) {
    const auto open = [&](const BundleUnit& bundle) { return !committed(bundle); };
    if (std::ranges::any_of(unit.bundles, open)) return unit.layer;
  }
  return static_cast<std::int64_t>(context_.plan.layers.size());
}

/// The outputs of a layer matter only to a later layer that is still open, or to an open head.
bool QuantizeFlow::needs_outputs(std::int64_t layer) const {
  const auto& layers = context_.plan.layers;
  const auto open = [&](const BundleUnit& bundle) { return !committed(bundle); };
  for (auto later = static_cast<std::size_t>(layer) + 1; later < layers.size(); ++later) {
    if (std::ranges::any_of(layers[later].bundles, open)) return true;
  }
  return std::ranges::any_of(context_.plan.head, open);
}

void QuantizeFlow::run() {
  const std::int64_t first_open = first_open_layer();
  const auto layers = static_cast<std::int64_t>(context_.plan.layers.size());
  progress_.begin("quantize layer", layers, first_open);
  const bool all_done = first_open == layers &&
                        std::ranges::all_of(context_.plan.head, [&](const BundleUnit& bundle) {
                          return committed(bundle);
                        });
  if (!all_done) {
    std::int64_t layer = start_activations(first_open);
    for (; layer < first_open; ++layer) replay_layer(layer);
    for (; layer < layers; ++layer) {
      process_layer(context_.plan.layers[static_cast<std::size_t>(layer)]);
      progress_.step(fmt::format("layer {} solved", layer));
      stop_if_asked(context_);
    }
    process_head();
  }
  quantize_.settle();
  progress_.end();
}

/// Residuals of the latest layer they are saved for, or of layer 0.
std::int64_t QuantizeFlow::start_activations(std::int64_t first_open) {
  std::vector<std::int64_t> latest_first;
  for (std::int64_t layer = first_open; layer > 0; --layer) latest_first.push_back(layer);
  const std::int64_t saved = activations_.find_saved(latest_first);
  if (saved > 0) {
    context_.session.log->info("inputs of layer {} restored from the run directory", saved);
    activations_.restore(saved);
    return saved;
  }
  const auto lap = context_.watch.lap("load");
  const LayerWeights ends = loader_.load(forward_.embedding_tensors());
  activations_.embed(forward_, ends);
  return 0;
}

/// A layer that is committed already: forward only, through what was committed.
void QuantizeFlow::replay_layer(std::int64_t layer) {
  const RunWeights run_weights(*context_.model.weights, context_.plan, context_.store);
  LayerLoader replay_loader(context_.session, run_weights);
  const LayerGraph& graph = context_.model.graph.layers[static_cast<std::size_t>(layer)];
  const Trace::Span span(context_.session.trace.get(), "layer {}: replay", layer);
  const LayerWeights weights =
      (original_propagation() ? loader_ : replay_loader).load(graph.tensors);
  const auto block =
      make_block(context_.model.graph, layer, forward_.rope(), *context_.session.backend);
  context_.session.enter(fmt::format("layer {}: replay", layer));
  const auto lap = context_.watch.lap("replay");
  for (std::int64_t round = 0; round < activations_.rounds(); ++round) {
    BlockState* state = activations_.in_round(round);
    if (state == nullptr) continue;
    const Trace::Span of_round(context_.session.trace.get(), "round {}", round);
    block->begin(weights, *state);
    for (int stage = 0; stage < graph.stages(); ++stage) block->advance(stage, weights, *state);
    activations_.changed(round);
  }
  context_.session.backend->memory().synchronize();
  stop_if_asked(context_);
}

void QuantizeFlow::process_layer(const LayerUnit& unit) {
  const Trace::Span span(context_.session.trace.get(), "layer {}", unit.layer);
  const auto layer_lap = context_.watch.layer_lap(unit.layer);
  const std::int64_t every = context_.config.run.save_activations;
  if (every > 0 && unit.layer > 0 && unit.layer % every == 0) {
    quantize_.settle();  // a resume starts here
    activations_.save(unit.layer);
  }
  const auto& layers = context_.model.graph.layers;
  const auto index = static_cast<std::size_t>(unit.layer);
  LayerWeights weights;
  {
    const auto lap = context_.watch.lap("load");
    context_.session.enter(fmt::format("layer {}: load weights", unit.layer));
    weights = loader_.load(layers[index].tensors);
    if (index + 1 < layers.size()) loader_.prefetch(layers[index + 1].tensors);
  }
  const auto block =
      make_block(context_.model.graph, unit.layer, forward_.rope(), *context_.session.backend);
  for (std::int64_t round = 0; round < activations_.rounds(); ++round) {
    BlockState* state = activations_.in_round(round);
    if (state == nullptr) continue;
    block->begin(weights, *state);
    activations_.changed(round);
  }
  for (const InputGroup& group : input_groups(unit, context_.config.quantize)) {
    process_group(unit, group, weights, *block);
  }
}

void QuantizeFlow::process_group(const LayerUnit& unit, const InputGroup& group,
                                 LayerWeights& weights, DecoderBlock& block) {
  outputs_.clear();
  solve_missing(unit, group, weights, block);
  const bool ends_layer = group.last_stage() == unit.bundles.back().input.stage;
  if (ends_layer && !needs_outputs(unit.layer)) return;
  if (!outputs_.empty()) {
    activations_.swap(outputs_);
    outputs_.clear();
    return;
  }
  if (!original_propagation()) {
    const auto lap = context_.watch.lap("install");
    for (const BundleUnit& bundle : group.bundles) {
      if (bundle.modules.empty()) continue;
      context_.session.enter(fmt::format("install {}", bundle.name));
      quantize_.install(bundle, owner_of(&bundle, unit.bundles, context_.session.ranks()), weights);
    }
  }
  advance(group, weights, block);
}

void QuantizeFlow::advance(const InputGroup& group, const LayerWeights& weights,
                           DecoderBlock& block) {
  const auto lap = context_.watch.lap("forward");
  for (std::int64_t round = 0; round < activations_.rounds(); ++round) {
    BlockState* state = activations_.in_round(round);
    if (state == nullptr) continue;
    const Trace::Span span(context_.session.trace.get(), "round {}", round);
    for (int stage = group.first_stage(); stage <= group.last_stage(); ++stage) {
      block.advance(stage, weights, *state);
    }
    activations_.changed(round);
  }
  context_.session.backend->memory().synchronize();
}

void QuantizeFlow::solve_missing(const LayerUnit& unit, const InputGroup& group,
                                 const LayerWeights& weights, DecoderBlock& block) {
  std::vector<const BundleUnit*> missing;
  std::vector<int> owners;
  for (const BundleUnit& bundle : group.bundles) {
    if (committed(bundle)) continue;
    missing.push_back(&bundle);
    owners.push_back(owner_of(&bundle, unit.bundles, context_.session.ranks()));
  }
  if (missing.empty()) return;
  const std::unique_ptr<Calibrate> measured = measure(group, missing, weights, block);
  solve_measured(missing, owners, *measured, weights);
  stop_if_asked(context_);
}

/// H summed at the owners, kept if asked for, and used.
void QuantizeFlow::solve_measured(std::span<const BundleUnit* const> missing,
                                  std::span<const int> owners, Calibrate& measured,
                                  const LayerWeights& weights) {
  Session& session = context_.session;
  const bool shared = quantize_.shares(missing.size());
  {
    const auto lap = context_.watch.lap("reduce");
    session.enter(fmt::format("reduce H of {}", missing.front()->name));
    measured.reduce(owners);
    if (shared) measured.share(0, owners.front());
  }
  std::vector<BundleStatistics> statistics(missing.size());
  std::vector<BundleTask> tasks;
  for (std::size_t i = 0; i < missing.size(); ++i) {
    statistics[i].gram = std::move(measured.gram(i));
    tasks.push_back({missing[i], owners[i], &statistics[i], shared});
  }
  if (statistics_ != nullptr) keep_statistics(context_, *statistics_, tasks);
  quantize_.solve(tasks, weights);
}

std::unique_ptr<Calibrate> QuantizeFlow::measure(const InputGroup& group,
                                                 std::span<const BundleUnit* const> missing,
                                                 const LayerWeights& weights, DecoderBlock& block) {
  std::vector<std::int64_t> features;
  for (const BundleUnit* bundle : missing) features.push_back(bundle->input.features);
  auto statistics = std::make_unique<Calibrate>(context_.session, std::move(features),
                                                activations_.batches().tokens());
  context_.session.enter(fmt::format("measure {}", missing.front()->name));
  while (true) {
    for (std::int64_t round = 0; round < activations_.rounds(); ++round) {
      measure_batch(group, missing, weights, block, *statistics, round);
    }
    if (!statistics->overflowed()) return statistics;
    statistics->widen();
  }
}

/// One micro-batch through the stages of a group, each missing bundle's H accumulated. In round 0
/// every rank takes part in the exponents, whether or not it has a micro-batch.
void QuantizeFlow::measure_batch(const InputGroup& group,
                                 std::span<const BundleUnit* const> missing,
                                 const LayerWeights& weights, DecoderBlock& block,
                                 Calibrate& statistics, std::int64_t round) {
  const Trace::Span span(context_.session.trace.get(), "round {}", round);
  BlockState* state = activations_.in_round(round);
  const bool carries = original_propagation();
  const bool moves = carries || group.first_stage() != group.last_stage();
  BlockState copy;
  if (state != nullptr && moves) {
    copy = clone(*state, context_.session.backend->memory());
    activations_.unchanged(round);
  }
  BlockState* work = state == nullptr ? nullptr : moves ? &copy : state;
  for (int stage = group.first_stage(); stage <= group.last_stage(); ++stage) {
    std::size_t position = 0;
    for (const BundleUnit& bundle : group.bundles) {
      if (bundle.input.stage != stage) continue;
      const std::size_t slot = position++;
      const auto found = std::ranges::find(missing, &bundle);
      if (found == missing.end()) continue;
      const auto index = static_cast<std::size_t>(found - missing.begin());
      const Tensor* x = work == nullptr ? nullptr : &work->inputs[slot];
      const auto lap = context_.watch.lap("statistics");
      if (round == 0) statistics.choose_exponents(index, x);
      if (x != nullptr) statistics.add(index, *x);
      context_.session.backend->memory().synchronize();
    }
    if (work == nullptr || (stage == group.last_stage() && !carries)) continue;
    const auto lap = context_.watch.lap("forward");
    block.advance(stage, weights, *work);
    context_.session.backend->memory().synchronize();
  }
  if (work == nullptr) return;
  if (!moves) activations_.unchanged(round);
  if (carries) outputs_.put(round, std::move(copy));
}

void QuantizeFlow::process_head() {
  if (context_.plan.head.empty() || committed(context_.plan.head.front())) return;
  const BundleUnit* bundle = &context_.plan.head.front();
  const LayerWeights ends = loader_.load(forward_.head_tensors());
  const int owner = owner_of(bundle, context_.plan.head, context_.session.ranks());
  Calibrate measured(context_.session, {bundle->input.features}, activations_.batches().tokens());
  do {
    for (std::int64_t round = 0; round < activations_.rounds(); ++round) {
      const BlockState* state = activations_.in_round(round);
      Tensor input;
      if (state != nullptr) input = forward_.head_input(ends, state->residual.view());
      if (round == 0) measured.choose_exponents(0, state == nullptr ? nullptr : &input);
      if (state == nullptr) continue;
      measured.add(0, input);
      activations_.unchanged(round);
    }
  } while (measured.overflowed() && (measured.widen(), true));
  solve_measured({&bundle, 1}, {&owner, 1}, measured, ends);
}

}  // namespace quern
