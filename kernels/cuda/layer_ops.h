#pragma once

#include "kernels/cuda/context.h"

namespace quern {

/// Layer operations on activations of the context's type. Every output element is the work of one
/// block in a fixed order.
class CudaLayerOps final : public LayerOps {
 public:
  explicit CudaLayerOps(CudaContext& context) : context_(context) {}

 private:
  void do_convert(ConstTensorView in, TensorView out) override;
  void do_count_nonfinite(ConstTensorView x, TensorView count) override;
  void do_fingerprint(ConstTensorView x, TensorView out) override;
  void do_embed(ConstTensorView table, ConstTensorView ids, TensorView out) override;
  void do_rms_norm(ConstTensorView x, ConstTensorView weight, float epsilon,
                   TensorView out) override;
  void do_linear(ConstTensorView x, ConstTensorView weight, std::optional<ConstTensorView> bias,
                 TensorView out) override;
  void do_rotate(TensorView x, ConstTensorView table, std::int64_t head_dim) override;
  void do_attention(ConstTensorView q, ConstTensorView k, ConstTensorView v,
                    const AttentionShape& shape, TensorView out) override;
  void do_gated_activation(TensorView gate, ConstTensorView up, Activation activation) override;
  void do_add(TensorView x, ConstTensorView delta) override;
  void do_token_nll(ConstTensorView logits, ConstTensorView targets, TensorView nll) override;

  CudaContext& context_;
};

}  // namespace quern
