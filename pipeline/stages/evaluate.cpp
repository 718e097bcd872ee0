#include "pipeline/stages/evaluate.h"

#include <fmt/format.h>

#include <cmath>

#include "kernels/core/error.h"
#include "pipeline/device/device_memory.h"
#include "pipeline/model/layer_loader.h"

namespace quern {
namespace {

RoundPlacement placement_of(const Session& session, const ModelGraph& graph,
                            const MicroBatches& batches) {
  const EvaluationSize size{batches.rounds(session.ranks()), std::ssize(batches.ids(0))};
  const Backend& backend = *session.backend;
  return states_of(place_on_device(evaluation_needs(graph, size, backend.activation_dtype()),
                                   session.backend->memory().limit_bytes()));
}

/// Residuals of this rank's micro-batches after all layers.
RoundStates run_layers(Session& session, const ModelGraph& graph, LayerLoader& loader,
                       Forward& forward, const MicroBatches& batches) {
  RoundStates states(session.backend->memory(), placement_of(session, graph, batches));
  {
    const LayerWeights ends = loader.load(forward.embedding_tensors());
    for (std::int64_t round = 0; round < batches.rounds(session.ranks()); ++round) {
      const std::int64_t m = batches.of_round(round, session.rank(), session.ranks());
      if (m < 0) break;
      BlockState state;
      state.residual = forward.embed(ends, batches.ids(m));
      states.put(round, std::move(state));
    }
    session.backend->memory().synchronize();
  }
  for (const LayerGraph& layer : graph.layers) {
    session.enter(fmt::format("evaluate layer {}", layer.index));
    const Trace::Span span(session.trace.get(), "layer {}: evaluate", layer.index);
    const LayerWeights weights = loader.load(layer.tensors);
    const auto next = static_cast<std::size_t>(layer.index) + 1;
    if (next < graph.layers.size()) loader.prefetch(graph.layers[next].tensors);
    const auto block = make_block(graph, layer.index, forward.rope(), *session.backend);
    for (std::int64_t round = 0; round < states.rounds(); ++round) {
      const Trace::Span of_round(session.trace.get(), "round {}", round);
      BlockState& state = states.at(round);
      block->begin(weights, state);
      for (int stage = 0; stage < layer.stages(); ++stage) block->advance(stage, weights, state);
      states.changed(round);
    }
    session.backend->memory().synchronize();
  }
  return states;
}

}  // namespace

Perplexity evaluate_perplexity(Session& session, const ModelGraph& graph,
                               const WeightSource& weights, const MicroBatches& batches) {
  Forward forward(session, graph, batches.sequence_length());
  LayerLoader loader(session, weights);
  RoundStates states = run_layers(session, graph, loader, forward, batches);
  session.enter("evaluate head");
  const Trace::Span span(session.trace.get(), "head: evaluate");
  const LayerWeights ends = loader.load(forward.head_tensors());
  std::vector<float> mine;
  for (std::int64_t round = 0; round < states.rounds(); ++round) {
    const std::int64_t m = batches.of_round(round, session.rank(), session.ranks());
    const auto nll = forward.token_nll(ends, states.at(round).residual.view(), batches.ids(m));
    states.unchanged(round);
    mine.insert(mine.end(), nll.begin(), nll.end());
  }
  const auto parts = session.communicator->gather(std::as_bytes(std::span(mine)), 0);
  Perplexity result;
  result.windows = batches.tokens() / batches.sequence_length();
  result.tokens = batches.tokens() - result.windows;
  if (session.is_root()) {
    double total = 0.0;
    std::vector<std::size_t> taken(parts.size());
    for (std::int64_t m = 0; m < batches.count(); ++m) {
      const auto rank = static_cast<std::size_t>(m % session.ranks());
      const auto ids = static_cast<std::int64_t>(batches.ids(m).size());
      const auto predicted = static_cast<std::size_t>(ids - ids / batches.sequence_length());
      const auto* values = reinterpret_cast<const float*>(parts[rank].data()) + taken[rank];
      for (std::size_t i = 0; i < predicted; ++i) total += static_cast<double>(values[i]);
      taken[rank] += predicted;
    }
    result.mean_nll = total / static_cast<double>(result.tokens);
  }
  session.communicator->broadcast(std::as_writable_bytes(std::span(&result.mean_nll, 1)), 0);
  result.perplexity = std::exp(result.mean_nll);
  return result;
}

}  // namespace quern
