#pragma once

#include "kernels/cpu/scratch.h"
#include "kernels/gradient_ops.h"

namespace quern {

/// Gradients of float activations, cut into work like CpuLayerOps: bits do not depend on the thread
/// count.
class CpuGradientOps final : public GradientOps {
 public:
  CpuGradientOps(Memory& memory, int threads) : threads_(threads), scratch_(memory, threads) {}

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

  int threads_;
  Scratch scratch_;
};

}  // namespace quern
