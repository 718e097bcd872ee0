#include "kernels/statistics_ops.h"

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

}  // namespace

void StatisticsOps::choose_gram_exponents(ConstTensorView x, std::int64_t total_tokens,
                                          int headroom_bits, TensorView exponents) {
  expect_operands(is_float_matrix(x) && is_tensor(exponents, DType::i32, {x.shape[1]}),
                  "choose_gram_exponents", "x [T, K] of the activation type, exponents [K] i32",
                  {{"x", x}, {"exponents", exponents}});
  check_tokens("choose_gram_exponents", x, total_tokens);
  if (headroom_bits < 0 || headroom_bits > 62) {
    throw ShapeError(fmt::format(
        "choose_gram_exponents: expected 0 to 62 headroom bits, got {}; this is a bug in Quern, "
        "please report it",
        headroom_bits));
  }
  if (exponents.elems() > 0) do_choose_gram_exponents(x, total_tokens, headroom_bits, exponents);
}

void StatisticsOps::accumulate_gram(ConstTensorView x, std::int64_t total_tokens,
                                    const GramView& gram) {
  const bool fits = is_float_matrix(x) &&
                    is_tensor(gram.sums, DType::i64, {x.shape[1], x.shape[1]}) &&
                    is_tensor(gram.exponents, DType::i32, {x.shape[1]}) &&
                    is_tensor(gram.overflow, DType::i64, {1});
  expect_operands(
      fits, "accumulate_gram", "x [T, K], sums [K, K] i64, exponents [K] i32, overflow [1] i64",
      {{"x", x}, {"sums", gram.sums}, {"exponents", gram.exponents}, {"overflow", gram.overflow}});
  check_tokens("accumulate_gram", x, total_tokens);
  if (x.elems() > 0) do_accumulate_gram(x, total_tokens, gram);
}

}  // namespace quern
