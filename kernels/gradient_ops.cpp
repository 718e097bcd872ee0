#include "kernels/gradient_ops.h"

#include "kernels/operands.h"

namespace quern {

void GradientOps::rms_norm(ConstTensorView x, ConstTensorView weight, float epsilon,
                           ConstTensorView dy, TensorView dx) {
  const bool fits = is_float_matrix(x) && is_float_tensor(weight, {x.shape[1]}) &&
                    same_type_and_shape(x, dy) && same_type_and_shape(x, dx);
  expect_operands(fits, "gradient of rms_norm", "x [T, K], weight [K], dy and dx like x",
                  {{"x", x}, {"weight", weight}, {"dy", dy}, {"dx", dx}});
  if (dx.elems() > 0) do_rms_norm(x, weight, epsilon, dy, dx);
}

void GradientOps::linear(ConstTensorView dy, ConstTensorView weight, TensorView dx) {
  const bool fits = is_float_matrix(dy) && is_float_matrix(weight) &&
                    dy.shape[1] == weight.shape[0] && dy.shape[1] > 0 &&
                    is_float_tensor(dx, {dy.shape[0], weight.shape[1]});
  expect_operands(fits, "gradient of linear", "dy [T, N], weight [N, K], dx [T, K]",
                  {{"dy", dy}, {"weight", weight}, {"dx", dx}});
  if (dx.elems() > 0) do_linear(dy, weight, dx);
}

void GradientOps::rotate(TensorView dx, ConstTensorView table, std::int64_t head_dim) {
  const bool fits = is_float_matrix(dx) && head_dim > 0 && head_dim % 2 == 0 &&
                    dx.shape[1] % head_dim == 0 && table.shape.rank() == 2 &&
                    table.dtype == DType::f32 && table.shape[0] > 0 && table.shape[1] == head_dim;
  expect_operands(fits, "gradient of rotate",
                  "dx [T, heads * d], table [S, d] f32 with even d = head_dim",
                  {{"dx", dx}, {"table", table}});
  if (dx.elems() > 0) do_rotate(dx, table, head_dim);
}

void GradientOps::attention(const AttentionForward& forward, ConstTensorView dy,
                            const AttentionShape& shape, const AttentionGradient& gradient) {
  expect_geometry("gradient of attention", shape);
  const auto& [q, k, v, out] = forward;
  const bool forward_fits = is_float_matrix(q) && q.shape[1] == shape.heads * shape.head_dim &&
                            q.shape[0] % shape.sequence_length == 0 &&
                            is_tensor(k, q.dtype, {q.shape[0], shape.kv_heads * shape.head_dim}) &&
                            same_type_and_shape(k, v) && same_type_and_shape(q, out);
  const bool fits = forward_fits && same_type_and_shape(q, dy) &&
                    same_type_and_shape(q, gradient.q) && same_type_and_shape(k, gradient.k) &&
                    same_type_and_shape(v, gradient.v);
  expect_operands(fits, "gradient of attention",
                  "whole sequences; q, out, dy and dq [T, heads * head_dim], k, v, dk and dv [T, "
                  "kv_heads * head_dim] of one type",
                  {{"q", q},
                   {"k", k},
                   {"v", v},
                   {"out", out},
                   {"dy", dy},
                   {"dq", gradient.q},
                   {"dk", gradient.k},
                   {"dv", gradient.v}});
  if (dy.elems() > 0) do_attention(forward, dy, shape, gradient);
}

void GradientOps::gated_activation(TensorView gate, TensorView up, ConstTensorView dh,
                                   Activation activation) {
  expect_operands(
      is_float_matrix(gate) && same_type_and_shape(gate, up) && same_type_and_shape(gate, dh),
      "gradient of gated_activation", "gate, up and dh [T, K] of one type",
      {{"gate", gate}, {"up", up}, {"dh", dh}});
  if (gate.elems() > 0) do_gated_activation(gate, up, dh, activation);
}

void GradientOps::token_nll(TensorView logits, ConstTensorView targets, float scale) {
  const bool fits = is_float_matrix(logits) && logits.shape[1] > 0 &&
                    is_tensor(targets, DType::i32, {logits.shape[0]});
  expect_operands(fits, "gradient of token_nll", "logits [T, V], targets [T] i32",
                  {{"logits", logits}, {"targets", targets}});
  if (logits.elems() > 0) do_token_nll(logits, targets, scale);
}

}  // namespace quern
