#include "kernels/layer_ops.h"

#include "kernels/operands.h"

namespace quern {

void expect_geometry(const char* operation, const AttentionShape& shape) {
  const bool heads_fit = shape.heads > 0 && shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0;
  if (heads_fit && shape.head_dim > 0 && shape.sequence_length > 0 && shape.window >= 0) return;
  throw ShapeError(fmt::format(
      "{}: expected positive heads, kv_heads that divides them, head_dim and sequence_length, and "
      "no negative window; got {} heads, {} kv_heads, head_dim {}, sequence_length {}, window {}; "
      "this is a bug in Quern, please report it",
      operation, shape.heads, shape.kv_heads, shape.head_dim, shape.sequence_length, shape.window));
}

void LayerOps::convert(ConstTensorView in, TensorView out) {
  expect_operands(is_plain_float(in.dtype) && is_plain_float(out.dtype) && in.shape == out.shape,
                  "convert", "f32, f16, bf16 or f64 tensors of one shape",
                  {{"in", in}, {"out", out}});
  if (in.elems() > 0) do_convert(in, out);
}

void LayerOps::count_nonfinite(ConstTensorView x, TensorView count) {
  expect_operands(is_plain_float(x.dtype) && is_tensor(count, DType::i64, {1}), "count_nonfinite",
                  "a plain float x and count [1] i64", {{"x", x}, {"count", count}});
  if (x.elems() > 0) do_count_nonfinite(x, count);
}

void LayerOps::fingerprint(ConstTensorView x, TensorView out) {
  expect_operands(x.dtype == DType::f32 && is_tensor(out, DType::i64, {1}), "fingerprint",
                  "an f32 x and out [1] i64", {{"x", x}, {"out", out}});
  do_fingerprint(x, out);
}

void LayerOps::embed(ConstTensorView table, ConstTensorView ids, TensorView out) {
  expect_operands(is_float_matrix(table) && ids.dtype == DType::i32 && ids.shape.rank() == 1 &&
                      is_float_tensor(out, {ids.elems(), table.shape[1]}),
                  "embed", "table [V, K], ids [T] i32, out [T, K]",
                  {{"table", table}, {"ids", ids}, {"out", out}});
  if (out.elems() > 0) do_embed(table, ids, out);
}

void LayerOps::rms_norm(ConstTensorView x, ConstTensorView weight, float epsilon, TensorView out) {
  expect_operands(
      is_float_matrix(x) && is_float_tensor(weight, {x.shape[1]}) && same_type_and_shape(x, out),
      "rms_norm", "x [T, K], weight [K], out like x", {{"x", x}, {"weight", weight}, {"out", out}});
  if (out.elems() > 0) do_rms_norm(x, weight, epsilon, out);
}

void LayerOps::linear(ConstTensorView x, ConstTensorView weight,
                      std::optional<ConstTensorView> bias, TensorView out) {
  const bool fits = is_float_matrix(x) && is_float_matrix(weight) &&
                    x.shape[1] == weight.shape[1] && x.shape[1] > 0 &&
                    is_float_tensor(out, {x.shape[0], weight.shape[0]}) &&
                    (!bias || is_float_tensor(*bias, {weight.shape[0]}));
  expect_operands(
      fits, "linear", "x [T, K], weight [N, K], bias [N] or none, out [T, N]",
      {{"x", x}, {"weight", weight}, {"bias", bias.value_or(ConstTensorView{})}, {"out", out}});
  if (out.elems() > 0) do_linear(x, weight, bias, out);
}

void LayerOps::rotate(TensorView x, ConstTensorView table, std::int64_t head_dim) {
  const bool fits = is_float_matrix(x) && head_dim > 0 && head_dim % 2 == 0 &&
                    x.shape[1] % head_dim == 0 && table.shape.rank() == 2 &&
                    table.dtype == DType::f32 && table.shape[0] > 0 && table.shape[1] == head_dim;
  expect_operands(fits, "rotate", "x [T, heads * d], table [S, d] f32 with even d = head_dim",
                  {{"x", x}, {"table", table}});
  if (x.elems() > 0) do_rotate(x, table, head_dim);
}

void LayerOps::attention(ConstTensorView q, ConstTensorView k, ConstTensorView v,
                         const AttentionShape& shape, TensorView out) {
  expect_geometry("attention", shape);
  const bool fits = is_float_matrix(q) && q.shape[1] == shape.heads * shape.head_dim &&
                    q.shape[0] % shape.sequence_length == 0 &&
                    is_tensor(k, q.dtype, {q.shape[0], shape.kv_heads * shape.head_dim}) &&
                    same_type_and_shape(k, v) && same_type_and_shape(q, out);
  expect_operands(fits, "attention",
                  "whole sequences, q and out [T, heads * head_dim], k and v [T, kv_heads * "
                  "head_dim] of one type",
                  {{"q", q}, {"k", k}, {"v", v}, {"out", out}});
  if (out.elems() > 0) do_attention(q, k, v, shape, out);
}

void LayerOps::gated_activation(TensorView gate, ConstTensorView up, Activation activation) {
  expect_operands(is_float_matrix(gate) && same_type_and_shape(gate, up), "gated_activation",
                  "gate and up [T, K] of one type", {{"gate", gate}, {"up", up}});
  if (gate.elems() > 0) do_gated_activation(gate, up, activation);
}

void LayerOps::add(TensorView x, ConstTensorView delta) {
  expect_operands(is_plain_float(x.dtype) && same_type_and_shape(x, delta), "add",
                  "x and delta of one type and shape", {{"x", x}, {"delta", delta}});
  if (x.elems() > 0) do_add(x, delta);
}

void LayerOps::token_nll(ConstTensorView logits, ConstTensorView targets, TensorView nll) {
  const bool fits = is_float_matrix(logits) && logits.shape[1] > 0 &&
                    is_tensor(targets, DType::i32, {logits.shape[0]}) &&
                    is_tensor(nll, DType::f32, {logits.shape[0]});
  expect_operands(fits, "token_nll", "logits [T, V], targets [T] i32, nll [T] f32",
                  {{"logits", logits}, {"targets", targets}, {"nll", nll}});
  if (logits.elems() > 0) do_token_nll(logits, targets, nll);
}

}  // namespace quern
