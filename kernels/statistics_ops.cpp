#include "kernels/statistics_ops.h"

#include <algorithm>

#include "kernels/operands.h"

namespace quern {
namespace {

void check_tokens(const char* operation, const ConstTensorView& x, std::int64_t total_tokens) {
  if (total_tokens >= 1) return;
  throw ShapeError(fmt::format(
      "{}: expected total_tokens of at least 1, got {} with x {}; this is a bug in Quern, please "
      "report it",
      operation, total_tokens, x.shape.text()));
}

void check_headroom(const char* operation, int headroom_bits) {
  if (headroom_bits >= 0 && headroom_bits <= 62) return;
  throw ShapeError(
      fmt::format("{}: expected 0 to 62 headroom bits, got {}; this is a bug in Quern, please "
                  "report it",
                  operation, headroom_bits));
}

void check_cut(const char* operation, const ConstTensorView& x, const SequenceCut& cut) {
  const bool whole = cut.sequence_length > 0 && x.shape[0] % cut.sequence_length == 0;
  if (whole && cut.total_sequences >= std::max<std::int64_t>(1, x.shape[0] / cut.sequence_length)) {
    return;
  }
  throw ShapeError(fmt::format(
      "{}: expected whole sequences, no more than total_sequences of them and total_sequences of "
      "at least 1; got x {}, sequence_length {}, total_sequences {}; this is a bug in Quern, "
      "please report it",
      operation, x.shape.text(), cut.sequence_length, cut.total_sequences));
}

bool share_tokens(const ConstTensorView& x, const ConstTensorView& dy) {
  return is_float_matrix(x) && is_float_matrix(dy) && x.dtype == dy.dtype &&
         x.shape[0] == dy.shape[0];
}

bool is_fisher(const FisherView& fisher, std::int64_t rows, std::int64_t columns) {
  return is_tensor(fisher.sums, DType::i64, {rows, columns}) &&
         is_tensor(fisher.exponents, DType::i32, {rows}) &&
         is_tensor(fisher.overflow, DType::i64, {1 + rows});
}

}  // namespace

bool is_gram(const GramView& gram, std::int64_t channels) {
  return is_tensor(gram.sums, DType::i64, {channels, channels}) &&
         is_tensor(gram.exponents, DType::i32, {channels}) &&
         is_tensor(gram.overflow, DType::i64, {1});
}

void StatisticsOps::choose_gram_exponents(ConstTensorView x, std::int64_t total_tokens,
                                          int headroom_bits, TensorView exponents) {
  expect_operands(is_float_matrix(x) && is_tensor(exponents, DType::i32, {x.shape[1]}),
                  "choose_gram_exponents", "x [T, K] of the activation type, exponents [K] i32",
                  {{"x", x}, {"exponents", exponents}});
  check_tokens("choose_gram_exponents", x, total_tokens);
  check_headroom("choose_gram_exponents", headroom_bits);
  if (exponents.elems() > 0) do_choose_gram_exponents(x, total_tokens, headroom_bits, exponents);
}

void StatisticsOps::accumulate_gram(ConstTensorView x, std::int64_t total_tokens,
                                    const GramView& gram) {
  expect_operands(
      is_float_matrix(x) && is_gram(gram, x.shape[1]), "accumulate_gram",
      "x [T, K], sums [K, K] i64, exponents [K] i32, overflow [1] i64",
      {{"x", x}, {"sums", gram.sums}, {"exponents", gram.exponents}, {"overflow", gram.overflow}});
  check_tokens("accumulate_gram", x, total_tokens);
  if (x.elems() > 0) do_accumulate_gram(x, total_tokens, gram);
}

void StatisticsOps::gram_diagonal(const GramView& gram, TensorView out) {
  const bool fits = out.dtype == DType::f64 && out.shape.rank() == 1 && is_gram(gram, out.shape[0]);
  expect_operands(fits, "gram_diagonal",
                  "sums [K, K] i64, exponents [K] i32, overflow [1] i64, out [K] f64",
                  {{"sums", gram.sums},
                   {"exponents", gram.exponents},
                   {"overflow", gram.overflow},
                   {"out", out}});
  if (out.elems() > 0) do_gram_diagonal(gram, out);
}

void StatisticsOps::choose_fisher_exponents(ConstTensorView x, ConstTensorView dy,
                                            const SequenceCut& cut, int headroom_bits,
                                            TensorView exponents) {
  expect_operands(share_tokens(x, dy) && is_tensor(exponents, DType::i32, {dy.shape[1]}),
                  "choose_fisher_exponents",
                  "x [T, K] and dy [T, N] of the activation type, exponents [N] i32",
                  {{"x", x}, {"dy", dy}, {"exponents", exponents}});
  check_cut("choose_fisher_exponents", x, cut);
  check_headroom("choose_fisher_exponents", headroom_bits);
  if (exponents.elems() > 0) do_choose_fisher_exponents(x, dy, cut, headroom_bits, exponents);
}

void StatisticsOps::accumulate_fisher(ConstTensorView x, ConstTensorView dy, const SequenceCut& cut,
                                      const FisherView& fisher) {
  expect_operands(share_tokens(x, dy) && is_fisher(fisher, dy.shape[1], x.shape[1]),
                  "accumulate_fisher",
                  "x [T, K], dy [T, N], sums [N, K] i64, exponents [N] i32, overflow [1 + N] i64",
                  {{"x", x},
                   {"dy", dy},
                   {"sums", fisher.sums},
                   {"exponents", fisher.exponents},
                   {"overflow", fisher.overflow}});
  check_cut("accumulate_fisher", x, cut);
  if (x.elems() > 0 && dy.elems() > 0) do_accumulate_fisher(x, dy, cut, fisher);
}

void StatisticsOps::fisher_values(const FisherView& fisher, TensorView out) {
  const bool fits = out.shape.rank() == 2 && out.dtype == DType::f32 &&
                    is_fisher(fisher, out.shape[0], out.shape[1]);
  expect_operands(fits, "fisher_values",
                  "sums [N, K] i64, exponents [N] i32, overflow [1 + N] i64, out [N, K] f32",
                  {{"sums", fisher.sums},
                   {"exponents", fisher.exponents},
                   {"overflow", fisher.overflow},
                   {"out", out}});
  if (out.elems() > 0) do_fisher_values(fisher, out);
}

void StatisticsOps::scale_by_gradient(ConstTensorView x, ConstTensorView dy, TensorView out) {
  expect_operands(share_tokens(x, dy) && dy.shape[1] > 0 && same_type_and_shape(x, out),
                  "scale_by_gradient", "x [T, K] and dy [T, N] of the activation type, out like x",
                  {{"x", x}, {"dy", dy}, {"out", out}});
  if (out.elems() > 0) do_scale_by_gradient(x, dy, out);
}

}  // namespace quern
