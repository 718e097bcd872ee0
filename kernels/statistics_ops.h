#pragma once

#include <cstdint>

#include "kernels/core/tensor.h"

namespace quern {

/// H = X^T X of one layer input in 64-bit fixed point, so that adding contributions is associative
/// and neither their order nor the number of ranks can show in the sum. Entry (i, j) of a
/// contribution is multiplied by 2^(exponents[i] + exponents[j]) and rounded to an integer. Views
/// only; the owner keeps the tensors.
struct GramView {
  TensorView sums;       ///< [K, K] i64; entries on and above the diagonal are kept, others are 0
  TensorView exponents;  ///< [K] i32
  TensorView overflow;   ///< [1] i64; > 0 after a contribution was too large for the exponents
};

/// Layer statistics. Asynchronous on the backend's stream; ShapeError on views that do not fit.
class StatisticsOps {
 public:
  virtual ~StatisticsOps() = default;

  /// Chooses exponents from the micro-batch x [T, K] so that `total_tokens` tokens like those of x
  /// fill at most 2^(62 - headroom_bits). |H_ij| <= sqrt(H_ii H_jj), so one exponent per channel
  /// bounds the whole matrix. A channel that is zero or not finite in x gets the exponent of the
  /// largest one; all get 0 where no channel is usable.
  /// exponents [K] i32 out.
  void choose_gram_exponents(ConstTensorView x, std::int64_t total_tokens, int headroom_bits,
                             TensorView exponents);

  /// gram.sums += fixed point of x^T x, x [T, K] of the activation type; rows of padding must not
  /// be passed. Products are formed in float32 over chunks of gram_chunk_rows tokens, each chunk
  /// rounded to fixed point by itself. A chunk entry that reaches 2^62 * chunk tokens /
  /// total_tokens would let the sum over all tokens wrap: it is counted in gram.overflow instead.
  void accumulate_gram(ConstTensorView x, std::int64_t total_tokens, const GramView& gram);

  static constexpr std::int64_t gram_chunk_rows = 512;

 private:
  virtual void do_choose_gram_exponents(ConstTensorView x, std::int64_t total_tokens,
                                        int headroom_bits, TensorView exponents) = 0;
  virtual void do_accumulate_gram(ConstTensorView x, std::int64_t total_tokens,
                                  const GramView& gram) = 0;
};

}  // namespace quern
