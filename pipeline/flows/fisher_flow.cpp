#include "pipeline/flows/fisher_flow.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "kernels/core/error.h"
#include "pipeline/device/device_memory.h"

namespace quern {

FisherFlow::FisherFlow(RunContext& context, const MicroBatches& batches,
                       const StatisticsNeeded& needed, Progress& progress)
    : context_(context),
      batches_(batches),
      needed_(needed),
      progress_(progress),
      loader_(context.session, *context.model.weights),
      forward_(context.session, context.model.graph, batches.sequence_length()),
      inputs_(context.session, context.config.run.directory,
              {placement_of(context).layer_input_bytes, context.config.run.activation_bytes}),
      gradients_(context, batches, states_of(placement_of(context)), "gradient"),
      next_(context.session.backend->memory(), states_of(placement_of(context))) {}

std::vector<const BundleUnit*> FisherFlow::wanted_of(const LayerUnit& unit) const {
  std::vector<const BundleUnit*> result;
  for (const BundleUnit& bundle : unit.bundles) {
    if (std::ranges::count(wanted_, &bundle) > 0) result.push_back(&bundle);
  }
  return result;
}

LayerWeights FisherFlow::load(std::int64_t layer, std::int64_t next) {
  context_.session.enter(progress_.unit() + ": load weights");
  const auto lap = context_.watch.lap("load");
  const auto& layers = context_.model.graph.layers;
  LayerWeights weights = loader_.load(layers[static_cast<std::size_t>(layer)].tensors);
  if (next >= 0 && next < static_cast<std::int64_t>(layers.size())) {
    loader_.prefetch(layers[static_cast<std::size_t>(next)].tensors);
  }
  return weights;
}

void FisherFlow::run(std::span<const BundleUnit* const> wanted, const Consume& consume) {
  if (wanted.empty()) return;
  wanted_.assign(wanted.begin(), wanted.end());
  std::vector<const LayerUnit*> units;
  for (const LayerUnit& unit : context_.plan.layers) {
    if (!wanted_of(unit).empty()) units.push_back(&unit);
  }
  const std::int64_t lowest = units.front()->layer;
  const std::int64_t start = start_gradients(lowest, units.back()->layer);
  progress_.begin("backward layer", start - lowest);
  for (std::int64_t layer = start; layer-- > lowest;) {
    backward(context_.plan.layers[static_cast<std::size_t>(layer)], consume);
    progress_.step(fmt::format("gradients of layer {}", layer));
    stop_if_asked(context_);
  }
  progress_.end();
}

/// Gradients at the input of the layer returned (one past the last: at the head), and the inputs of
/// all layers below it from `lowest` on.
std::int64_t FisherFlow::start_gradients(std::int64_t lowest, std::int64_t highest) {
  const auto layers = static_cast<std::int64_t>(context_.plan.layers.size());
  std::vector<std::int64_t> candidates;
  for (std::int64_t layer = highest + 1; layer < layers; ++layer) candidates.push_back(layer);
  const std::int64_t saved = gradients_.find_saved(candidates);
  forward(lowest, saved < 0 ? layers : saved);
  if (saved < 0) {
    loss();
    return layers;
  }
  context_.session.log->info("gradients of layer {} restored from the run directory", saved);
  gradients_.restore(saved);
  return saved;
}

/// Leaves the output of the last of these layers in the states.
void FisherFlow::forward(std::int64_t lowest, std::int64_t layers) {
  {
    const LayerWeights ends = loader_.load(forward_.embedding_tensors());
    gradients_.embed(forward_, ends);
  }
  progress_.begin("forward layer", layers);
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    const Trace::Span span(context_.session.trace.get(), "layer {}: forward", layer);
    const LayerWeights weights = load(layer, layer + 1);
    context_.session.enter(progress_.unit());
    const auto lap = context_.watch.lap("forward");
    const auto block =
        make_block(context_.model.graph, layer, forward_.rope(), *context_.session.backend);
    const int stages = context_.model.graph.layers[static_cast<std::size_t>(layer)].stages();
    for (std::int64_t round = 0; round < gradients_.rounds(); ++round) {
      BlockState* state = gradients_.in_round(round);
      if (state == nullptr) continue;
      const Trace::Span of_round(context_.session.trace.get(), "round {}", round);
      if (layer >= lowest) inputs_.keep(layer, round, state->residual.view());
      if (layer + 1 == layers && layers < std::ssize(context_.plan.layers)) {
        gradients_.unchanged(round);
        continue;
      }
      block->begin(weights, *state);
      for (int stage = 0; stage < stages; ++stage) block->advance(stage, weights, *state);
      gradients_.changed(round);
    }
    context_.session.backend->memory().synchronize();
    progress_.step(fmt::format("layer {}", layer));
    stop_if_asked(context_);
  }
  progress_.end();
  if (inputs_.scratch_bytes() > 0) {
    const std::uint64_t in_memory = inputs_.device_bytes() + inputs_.host_bytes();
    context_.session.log->info("layer inputs: {:.1f} MB in memory, {:.1f} MB in a scratch file",
                               static_cast<double>(in_memory) / 1e6,
                               static_cast<double>(inputs_.scratch_bytes()) / 1e6);
  }
}

void FisherFlow::loss() {
  const Session& session = context_.session;
  context_.session.enter("gradient of the loss");
  const LayerWeights ends = loader_.load(forward_.head_tensors());
  const auto lap = context_.watch.lap("loss");
  for (std::int64_t round = 0; round < gradients_.rounds(); ++round) {
    BlockState* state = gradients_.in_round(round);
    if (state == nullptr) continue;
    const auto ids = batches_.ids(batches_.of_round(round, session.rank(), session.ranks()));
    state->residual = forward_.loss_gradient(ends, state->residual.view(), ids);
    gradients_.changed(round);
  }
  session.backend->memory().synchronize();
}

/// One pass of all micro-batches back through a layer: leaves their gradients at its input in
/// next_. Those at its output stay, because an overflow asks for a second pass.
void FisherFlow::pass(const LayerUnit& unit, const LayerWeights& weights, FisherSums& sums) {
  Memory& memory = context_.session.backend->memory();
  const auto block =
      make_block(context_.model.graph, unit.layer, forward_.rope(), *context_.session.backend);
  for (std::int64_t round = 0; round < gradients_.rounds(); ++round) {
    const BlockState* state = gradients_.in_round(round);
    const bool first = round == 0;
    if (state == nullptr) {
      if (first) sums.take_part();
      continue;
    }
    const Trace::Span span(context_.session.trace.get(), "round {}", round);
    const Tensor input = inputs_.fetch(unit.layer, round);
    BlockState next = clone(*state, memory);
    gradients_.unchanged(round);
    block->backward(weights, input.view(), next.residual.view(),
                    [&](const LinearGradient& linear) { sums.add(linear, first); });
    memory.synchronize();
    next_.put(round, std::move(next));
  }
}

void FisherFlow::backward(const LayerUnit& unit, const Consume& consume) {
  Session& session = context_.session;
  const Trace::Span span(session.trace.get(), "layer {}: backward", unit.layer);
  const auto layer_lap = context_.watch.layer_lap(unit.layer);
  const LayerWeights weights = load(unit.layer, unit.layer - 1);
  session.enter(progress_.unit());
  const std::vector<const BundleUnit*> bundles = wanted_of(unit);
  const std::vector<int> all_owners = assign_owners(unit.bundles, session.ranks());
  std::vector<const LayerInput*> inputs;
  std::vector<int> owners;
  for (const BundleUnit* bundle : bundles) {
    inputs.push_back(&bundle->input);
    owners.push_back(all_owners[static_cast<std::size_t>(bundle - unit.bundles.data())]);
  }
  const std::int64_t length = batches_.sequence_length();
  FisherSums sums(session, inputs, needed_, {length, batches_.tokens() / length});
  {
    const auto lap = context_.watch.lap("backward");
    pass(unit, weights, sums);
    while (sums.overflowed()) {
      sums.widen();
      pass(unit, weights, sums);
    }
  }
  gradients_.swap(next_);
  next_.clear();
  inputs_.forget(unit.layer);
  if (!bundles.empty()) {
    std::vector<MeasuredBundle> measured;
    {
      const auto lap = context_.watch.lap("reduce");
      session.enter(progress_.unit() + ": reduce F");
      std::vector<BundleStatistics> statistics = sums.reduce(owners);
      for (std::size_t i = 0; i < bundles.size(); ++i) {
        measured.push_back({bundles[i], owners[i], std::move(statistics[i])});
      }
    }
    consume(measured, weights);
  }
  const std::int64_t every = context_.config.run.save_activations;
  if (every > 0 && unit.layer > 0 && unit.layer % every == 0) gradients_.save(unit.layer);
}

}  // namespace quern
