#pragma once

#include "kernels/core/tensor.h"
#include "kernels/layer_ops.h"

namespace quern {

/// What attention reads and makes in the forward pass, kept for the backward one.
struct AttentionForward {
  ConstTensorView q;    ///< [T, heads * head_dim]
  ConstTensorView k;    ///< [T, kv_heads * head_dim]
  ConstTensorView v;    ///< [T, kv_heads * head_dim]
  ConstTensorView out;  ///< [T, heads * head_dim]
};

/// Gradients with respect to the inputs of attention, shaped like them; overwritten.
struct AttentionGradient {
  TensorView q;
  TensorView k;
  TensorView v;
};

/// The transposes of LayerOps: the gradient of a loss goes in at an operation's output (dy) and
/// comes out at its input (dx). T, K, N, types, asynchrony and errors as in LayerOps. Results are
/// overwritten and do not depend on the thread count.
class GradientOps {
 public:
  virtual ~GradientOps() = default;

  /// dx of rms_norm(x, weight, epsilon); x, dy, dx [T, K], weight [K]. dx may be dy.
  void rms_norm(ConstTensorView x, ConstTensorView weight, float epsilon, ConstTensorView dy,
                TensorView dx);

  /// dx [T, K] = dy [T, N] weight [N, K].
  void linear(ConstTensorView dy, ConstTensorView weight, TensorView dx);

  /// Rotates back: the inverse of LayerOps::rotate, in place.
  void rotate(TensorView dx, ConstTensorView table, std::int64_t head_dim);

  /// Through the causal softmax, which is recomputed; no [heads, S, S] tensor. dy like forward.out.
  void attention(const AttentionForward& forward, ConstTensorView dy, const AttentionShape& shape,
                 const AttentionGradient& gradient);

  /// Through h = activation(gate) * up: gate and up as before the activation, on return they hold
  /// dgate and dup; dh [T, K].
  void gated_activation(TensorView gate, TensorView up, ConstTensorView dh, Activation activation);

  /// logits [T, V] become scale * (softmax(logits[t]) - onehot(targets[t])), the gradient of
  /// scale * token_nll; rows with targets[t] < 0 become 0. targets [T] i32 below V (not checked).
  void token_nll(TensorView logits, ConstTensorView targets, float scale);

 private:
  virtual void do_rms_norm(ConstTensorView x, ConstTensorView weight, float epsilon,
                           ConstTensorView dy, TensorView dx) = 0;
  virtual void do_linear(ConstTensorView dy, ConstTensorView weight, TensorView dx) = 0;
  virtual void do_rotate(TensorView dx, ConstTensorView table, std::int64_t head_dim) = 0;
  virtual void do_attention(const AttentionForward& forward, ConstTensorView dy,
                            const AttentionShape& shape, const AttentionGradient& gradient) = 0;
  virtual void do_gated_activation(TensorView gate, TensorView up, ConstTensorView dh,
                                   Activation activation) = 0;
  virtual void do_token_nll(TensorView logits, ConstTensorView targets, float scale) = 0;
};

}  // namespace quern
