#pragma once

#include "kernels/cuda/context.h"

namespace quern {

/// Gradients of activations of the context's type. Every output element is the work of one block
/// in a fixed order.
class CudaGradientOps final : public GradientOps {
 public:
  explicit CudaGradientOps(CudaContext& context) : context_(context) {}

 private:
  void do_rms_norm(ConstTensorView x, ConstTensorView weight, float epsilon, ConstTensorView dy,
                   TensorView dx) override;
  void do_linear(ConstTensorView dy, ConstTensorView weight, TensorView dx) override;
  void do_rotate(TensorView dx, ConstTensorView table, std::int64_t head_dim) override;
  void do_attention(const AttentionForward& forward, ConstTensorView dy,
                    const AttentionShape& shape, const AttentionGradient& gradient) override;
  void do_gated_activation(TensorView gate, TensorView up, ConstTensorView dh,
                           Activation activation) override;
  void do_token_nll(TensorView logits, ConstTensorView targets, float scale) override;

  CudaContext& context_;
};

}  // namespace quern
