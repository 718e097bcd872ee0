#pragma once

#include <cstdint>
#include <optional>

#include "kernels/core/tensor.h"

namespace quern {

/// Geometry of causal self-attention over packed sequences of equal length.
struct AttentionShape {
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;  ///< divides heads; each serves heads / kv_heads query heads
  std::int64_t head_dim = 0;
  std::int64_t sequence_length = 0;  ///< rows t .. t + sequence_length belong to one sequence
  std::int64_t window = 0;  ///< a query sees itself and window - 1 tokens before it; 0: all
  float scale = 1.0F;       ///< multiplies q . k
};

/// Elementwise function of a feed-forward layer.
enum class Activation : std::uint8_t { silu, relu, gelu_tanh };

/// The operations that make up a decoder layer. T = tokens of a micro-batch (whole sequences),
/// K = in features, N = out features. Activations x have the backend's activation type; weights
/// may be of any plain float type. Results depend on the shapes and values given, never on how
/// many threads computed them. All asynchronous on the backend's stream; ShapeError on views that
/// do not fit.
class LayerOps {
 public:
  virtual ~LayerOps() = default;

  /// out = in converted element by element, round to nearest even. Any two of f32, f16, bf16, f64.
  void convert(ConstTensorView in, TensorView out);

  /// count [1] i64 += number of elements of x (plain float) that are infinite or NaN.
  void count_nonfinite(ConstTensorView x, TensorView count);

  /// out [1] i64 = bits of fingerprint() of x f32, of any shape: what the device holds, compared
  /// with the host's copy without moving it.
  void fingerprint(ConstTensorView x, TensorView out);

  /// out[t] = table[ids[t]]; table [V, K], ids [T] i32 in [0, V) (not checked), out [T, K].
  void embed(ConstTensorView table, ConstTensorView ids, TensorView out);

  /// out = x / sqrt(mean(x^2) + epsilon) * weight by rows; x, out [T, K], weight [K]. out may be x.
  /// Zhang and Sennrich, "Root Mean Square Layer Normalization", eq. 4.
  void rms_norm(ConstTensorView x, ConstTensorView weight, float epsilon, TensorView out);

  /// out = x weight^T + bias; x [T, K], weight [N, K], bias [N] or none, out [T, N].
  void linear(ConstTensorView x, ConstTensorView weight, std::optional<ConstTensorView> bias,
              TensorView out);

  /// Rotates pairs (i, i + d/2) of every head in place: x [T, heads * d], table [S, d] f32 holding
  /// cos of d/2 frequencies, then sin. Row t has position t mod S. Su et al., "RoFormer".
  void rotate(TensorView x, ConstTensorView table, std::int64_t head_dim);

  /// Causal softmax(scale q k^T) v for every sequence and head without a [heads, S, S] tensor.
  /// q, out [T, heads * head_dim]; k, v [T, kv_heads * head_dim].
  void attention(ConstTensorView q, ConstTensorView k, ConstTensorView v,
                 const AttentionShape& shape, TensorView out);

  /// gate = activation(gate) * up, elementwise in place; both [T, K].
  void gated_activation(TensorView gate, ConstTensorView up, Activation activation);

  /// x += delta, elementwise.
  void add(TensorView x, ConstTensorView delta);

  /// nll[t] = logsumexp(logits[t]) - logits[t, targets[t]], in float32 (f64 logits: float64,
  /// rounded once); 0 where targets[t] < 0. logits [T, V], targets [T] i32 below V (not checked),
  /// nll [T] f32.
  void token_nll(ConstTensorView logits, ConstTensorView targets, TensorView nll);

 private:
  virtual void do_convert(ConstTensorView in, TensorView out) = 0;
  virtual void do_count_nonfinite(ConstTensorView x, TensorView count) = 0;
  virtual void do_fingerprint(ConstTensorView x, TensorView out) = 0;
  virtual void do_embed(ConstTensorView table, ConstTensorView ids, TensorView out) = 0;
  virtual void do_rms_norm(ConstTensorView x, ConstTensorView weight, float epsilon,
                           TensorView out) = 0;
  virtual void do_linear(ConstTensorView x, ConstTensorView weight,
                         std::optional<ConstTensorView> bias, TensorView out) = 0;
  virtual void do_rotate(TensorView x, ConstTensorView table, std::int64_t head_dim) = 0;
  virtual void do_attention(ConstTensorView q, ConstTensorView k, ConstTensorView v,
                            const AttentionShape& shape, TensorView out) = 0;
  virtual void do_gated_activation(TensorView gate, ConstTensorView up, Activation activation) = 0;
  virtual void do_add(TensorView x, ConstTensorView delta) = 0;
  virtual void do_token_nll(ConstTensorView logits, ConstTensorView targets, TensorView nll) = 0;
};

}  // namespace quern
