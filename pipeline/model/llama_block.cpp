#include "pipeline/model/llama_block.h"

#include <cmath>

#include "kernels/core/error.h"

namespace quern {
namespace {

/// Stages of a LLaMA layer, in the order of the architecture's InputRows.
enum Stage { kAttention, kAttentionOutput, kMlp, kMlpHidden };

void replace_inputs(BlockState& state, Tensor input) {
  state.inputs.clear();
  state.inputs.push_back(std::move(input));
}

}  // namespace

LlamaBlock::LlamaBlock(const ModelGeometry& geometry, std::int64_t layer, ConstTensorView rope,
                       Backend& backend)
    : geometry_(geometry), rope_(rope), backend_(backend) {
  shape_.heads = geometry.heads;
  shape_.kv_heads = geometry.kv_heads;
  shape_.head_dim = geometry.head_dim;
  shape_.sequence_length = rope.shape[0];
  shape_.window = geometry.window[static_cast<std::size_t>(layer)];
  shape_.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(geometry.head_dim)));
}

Tensor LlamaBlock::linear(const LayerWeights& weights, Role role, ConstTensorView x) {
  const ConstTensorView weight = weights.weight(role);
  Tensor out = backend_.memory().allocate(x.dtype, {x.shape[0], weight.shape[0]});
  backend_.layers().linear(x, weight, weights.bias(role), out.view());
  return out;
}

Tensor LlamaBlock::norm(const LayerWeights& weights, Role role, ConstTensorView x) {
  Tensor out = backend_.memory().allocate(x.dtype, x.shape);
  backend_.layers().rms_norm(x, weights.weight(role), static_cast<float>(geometry_.norm_epsilon),
                             out.view());
  return out;
}

Tensor LlamaBlock::attention(const LayerWeights& weights, ConstTensorView x) {
  Tensor q = linear(weights, Role::query, x);
  Tensor k = linear(weights, Role::key, x);
  const Tensor v = linear(weights, Role::value, x);
  LayerOps& ops = backend_.layers();
  ops.rotate(q.view(), rope_, geometry_.head_dim);
  ops.rotate(k.view(), rope_, geometry_.head_dim);
  Tensor out = backend_.memory().allocate(x.dtype, q.shape());
  ops.attention(q.view(), k.view(), v.view(), shape_, out.view());
  return out;
}

Tensor LlamaBlock::gated(const LayerWeights& weights, ConstTensorView x) {
  Tensor gate = linear(weights, Role::gate, x);
  const Tensor up = linear(weights, Role::up, x);
  backend_.layers().gated_activation(gate.view(), up.view(), geometry_.activation);
  return gate;
}

void LlamaBlock::begin(const LayerWeights& weights, BlockState& state) {
  replace_inputs(state, norm(weights, Role::attention_norm, state.residual.view()));
}

void LlamaBlock::advance(int stage, const LayerWeights& weights, BlockState& state) {
  ensure(state.inputs.size() == 1, "one input in a LLaMA layer's state");
  const ConstTensorView input = std::as_const(state.inputs.front()).view();
  switch (stage) {
    case kAttention:
      replace_inputs(state, attention(weights, input));
      break;
    case kAttentionOutput:
      backend_.layers().add(state.residual.view(),
                            linear(weights, Role::attention_output, input).view());
      replace_inputs(state, norm(weights, Role::mlp_norm, state.residual.view()));
      break;
    case kMlp:
      replace_inputs(state, gated(weights, input));
      break;
    case kMlpHidden:
      backend_.layers().add(state.residual.view(), linear(weights, Role::down, input).view());
      state.inputs.clear();
      break;
    default:
      ensure(false, "a stage of the layer");
  }
}

}  // namespace quern
