#include "tests/pipeline/model/traced_model.h"

#include <utility>

#include "pipeline/model/layer_loader.h"

namespace quern::test {
namespace {

void trace_layer(Session& session, const LayerGraph& layer, DecoderBlock& block,
                 const LayerWeights& weights, std::pair<BlockState, Trace>& work) {
  auto& [state, trace] = work;
  Memory& memory = session.backend->memory();
  trace.hidden.push_back(memory.to_host(std::as_const(state.residual).view()));
  block.begin(weights, state);
  for (int stage = 0; stage < layer.stages(); ++stage) {
    std::size_t slot = 0;
    for (const LayerInput& input : layer.inputs) {
      if (input.stage != stage) continue;
      const HostTensor x = memory.to_host(std::as_const(state.inputs[slot++]).view());
      for (const LinearModule& module : input.modules) trace.inputs[module.name] = x;
    }
    block.advance(stage, weights, state);
  }
}

}  // namespace

Trace trace_model(Session& session, const OpenModel& model, const MicroBatches& batches) {
  const ModelGraph& graph = model.graph;
  Memory& memory = session.backend->memory();
  Forward forward(session, graph, batches.sequence_length());
  LayerLoader loader(session, *model.weights);
  std::pair<BlockState, Trace> work;
  auto& [state, trace] = work;
  state.residual = forward.embed(loader.load(forward.embedding_tensors()), batches.ids(0));
  for (const LayerGraph& layer : graph.layers) {
    const LayerWeights weights = loader.load(layer.tensors);
    const auto block = make_block(graph, layer.index, forward.rope(), *session.backend);
    trace_layer(session, layer, *block, weights, work);
  }
  const LayerWeights ends = loader.load(forward.head_tensors());
  const ConstTensorView residual = std::as_const(state.residual).view();
  const Tensor normed = forward.head_input(ends, residual);
  trace.hidden.push_back(memory.to_host(normed.view()));
  Tensor logits = memory.allocate(DType::f32, {residual.shape[0], graph.geometry.vocab});
  session.backend->layers().linear(
      normed.view(), ends.weight(graph.geometry.tied_head ? Role::embedding : Role::head),
      std::nullopt, logits.view());
  trace.logits = memory.to_host(std::as_const(logits).view());
  trace.nll = forward.token_nll(ends, residual, batches.ids(0));
  return std::move(trace);
}

}  // namespace quern::test
