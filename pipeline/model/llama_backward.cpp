#include "pipeline/model/llama_block.h"

namespace quern {

/// What the backward pass needs of a layer's forward pass; [T, features] each.
struct LlamaBlock::Recomputed {
  Tensor attention_input;  ///< normed residual
  Tensor q, k, v;          ///< q and k rotated
  Tensor attention;        ///< input of the output projection
  Tensor middle;           ///< the residual between attention and feed-forward
  Tensor mlp_input;        ///< `middle` normed
  Tensor gate, up;         ///< before the activation
  Tensor mlp_hidden;       ///< input of the down projection
};

Tensor LlamaBlock::sum(ConstTensorView x, ConstTensorView delta) {
  Tensor out = backend_.memory().allocate(x.dtype, x.shape);
  backend_.memory().copy(x, out.view());
  backend_.layers().add(out.view(), delta);
  return out;
}

LlamaBlock::Recomputed LlamaBlock::recompute(const LayerWeights& weights,
                                             ConstTensorView residual) {
  LayerOps& ops = backend_.layers();
  Memory& memory = backend_.memory();
  Recomputed layer;
  layer.attention_input = norm(weights, Role::attention_norm, residual);
  layer.q = linear(weights, Role::query, layer.attention_input.view());
  layer.k = linear(weights, Role::key, layer.attention_input.view());
  layer.v = linear(weights, Role::value, layer.attention_input.view());
  ops.rotate(layer.q.view(), rope_, geometry_.head_dim);
  ops.rotate(layer.k.view(), rope_, geometry_.head_dim);
  layer.attention = memory.allocate(residual.dtype, layer.q.shape());
  ops.attention(layer.q.view(), layer.k.view(), layer.v.view(), shape_, layer.attention.view());
  layer.middle =
      sum(residual, linear(weights, Role::attention_output, layer.attention.view()).view());
  layer.mlp_input = norm(weights, Role::mlp_norm, layer.middle.view());
  layer.gate = linear(weights, Role::gate, layer.mlp_input.view());
  layer.up = linear(weights, Role::up, layer.mlp_input.view());
  layer.mlp_hidden = memory.allocate(residual.dtype, layer.gate.shape());
  memory.copy(layer.gate.view(), layer.mlp_hidden.view());
  ops.gated_activation(layer.mlp_hidden.view(), layer.up.view(), geometry_.activation);
  return layer;
}

Tensor LlamaBlock::linear_gradient(const LayerWeights& weights, Role role, ConstTensorView dy) {
  const ConstTensorView weight = weights.weight(role);
  Tensor dx = backend_.memory().allocate(dy.dtype, {dy.shape[0], weight.shape[1]});
  backend_.gradients().linear(dy, weight, dx.view());
  return dx;
}

/// dy becomes the gradient at the norm's input.
void LlamaBlock::norm_gradient(const LayerWeights& weights, Role role, ConstTensorView x,
                               TensorView dy) {
  backend_.gradients().rms_norm(x, weights.weight(role), static_cast<float>(geometry_.norm_epsilon),
                                dy, dy);
}

void LlamaBlock::mlp_gradient(const LayerWeights& weights, Recomputed& layer, TensorView gradient,
                              const VisitLinear& visit) {
  visit({Role::down, layer.mlp_hidden.view(), gradient});
  {
    const Tensor hidden = linear_gradient(weights, Role::down, gradient);
    backend_.gradients().gated_activation(layer.gate.view(), layer.up.view(), hidden.view(),
                                          geometry_.activation);
  }
  visit({Role::gate, layer.mlp_input.view(), layer.gate.view()});
  visit({Role::up, layer.mlp_input.view(), layer.up.view()});
  Tensor input = linear_gradient(weights, Role::gate, layer.gate.view());
  backend_.layers().add(input.view(), linear_gradient(weights, Role::up, layer.up.view()).view());
  norm_gradient(weights, Role::mlp_norm, layer.middle.view(), input.view());
  backend_.layers().add(gradient, input.view());
}

void LlamaBlock::attention_gradient(const LayerWeights& weights, const Recomputed& layer,
                                    ConstTensorView residual, TensorView gradient,
                                    const VisitLinear& visit) {
  Memory& memory = backend_.memory();
  visit({Role::attention_output, layer.attention.view(), gradient});
  const Tensor out = linear_gradient(weights, Role::attention_output, gradient);
  Tensor q = memory.allocate(gradient.dtype, layer.q.shape());
  Tensor k = memory.allocate(gradient.dtype, layer.k.shape());
  Tensor v = memory.allocate(gradient.dtype, layer.v.shape());
  backend_.gradients().attention(
      {layer.q.view(), layer.k.view(), layer.v.view(), layer.attention.view()}, out.view(), shape_,
      {q.view(), k.view(), v.view()});
  backend_.gradients().rotate(q.view(), rope_, geometry_.head_dim);
  backend_.gradients().rotate(k.view(), rope_, geometry_.head_dim);
  visit({Role::query, layer.attention_input.view(), q.view()});
  visit({Role::key, layer.attention_input.view(), k.view()});
  visit({Role::value, layer.attention_input.view(), v.view()});
  Tensor input = linear_gradient(weights, Role::query, q.view());
  backend_.layers().add(input.view(), linear_gradient(weights, Role::key, k.view()).view());
  backend_.layers().add(input.view(), linear_gradient(weights, Role::value, v.view()).view());
  norm_gradient(weights, Role::attention_norm, residual, input.view());
  backend_.layers().add(gradient, input.view());
}

void LlamaBlock::backward(const LayerWeights& weights, ConstTensorView residual,
                          TensorView gradient, const VisitLinear& visit) {
  Recomputed layer = recompute(weights, residual);
  mlp_gradient(weights, layer, gradient, visit);
  attention_gradient(weights, layer, residual, gradient, visit);
}

}  // namespace quern
