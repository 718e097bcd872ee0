#pragma once

#include "pipeline/model/decoder_block.h"

namespace quern {

/// RMS norm, rotary grouped-query attention, RMS norm, gated feed-forward; pre-norm residuals.
/// Touvron et al., "LLaMA: Open and Efficient Foundation Language Models".
class LlamaBlock final : public DecoderBlock {
 public:
  LlamaBlock(const ModelGeometry& geometry, std::int64_t layer, ConstTensorView rope,
             Backend& backend);

  void begin(const LayerWeights& weights, BlockState& state) override;
  void advance(int stage, const LayerWeights& weights, BlockState& state) override;
  void backward(const LayerWeights& weights, ConstTensorView residual, TensorView gradient,
                const VisitLinear& visit) override;

 private:
  struct Recomputed;

  Tensor linear(const LayerWeights& weights, Role role, ConstTensorView x);
  Tensor norm(const LayerWeights& weights, Role role, ConstTensorView x);
  Tensor attention(const LayerWeights& weights, ConstTensorView x);
  Tensor gated(const LayerWeights& weights, ConstTensorView x);
  Tensor sum(ConstTensorView x, ConstTensorView delta);
  Recomputed recompute(const LayerWeights& weights, ConstTensorView residual);
  Tensor linear_gradient(const LayerWeights& weights, Role role, ConstTensorView dy);
  void norm_gradient(const LayerWeights& weights, Role role, ConstTensorView x, TensorView dy);
  void mlp_gradient(const LayerWeights& weights, Recomputed& layer, TensorView gradient,
                    const VisitLinear& visit);
  void attention_gradient(const LayerWeights& weights, const Recomputed& layer,
                          ConstTensorView residual, TensorView gradient, const VisitLinear& visit);

  const ModelGeometry& geometry_;
  ConstTensorView rope_;
  Backend& backend_;
  AttentionShape shape_;
};

}  // namespace quern
