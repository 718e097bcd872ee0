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

/// F of one module in 64-bit fixed point: entry (n, k) of a sequence's squared gradient is
/// multiplied by 2^exponents[n] and rounded to an integer. Views only; the owner keeps the tensors.
struct FisherView {
  TensorView sums;       ///< [N, K] i64
  TensorView exponents;  ///< [N] i32
  TensorView overflow;   ///< [1 + N] i64; what was too large, then the bursts of each row
};

/// How a micro-batch is cut into sequences, and how many there are in all micro-batches together.
struct SequenceCut {
  std::int64_t sequence_length = 0;  ///< divides T
  std::int64_t total_sequences = 0;  ///< at least 1 and those of the micro-batch
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
  /// be passed. Products are formed in float32, of f64 in float64, over chunks of gram_chunk_rows
  /// tokens (a GPU takes longer ones of 16-bit activations), each chunk rounded to fixed point by
  /// itself. A chunk entry that reaches 2^62 * chunk tokens / total_tokens would let the sum over
  /// all tokens wrap: it is counted in gram.overflow instead.
  void accumulate_gram(ConstTensorView x, std::int64_t total_tokens, const GramView& gram);

  static constexpr std::int64_t gram_chunk_rows = 512;

  /// out [K] f64 = diagonal of H. gram.overflow is not looked at.
  void gram_diagonal(const GramView& gram, TensorView out);

  /// Chooses exponents from one micro-batch so that the largest entry of each row of F, if all
  /// sequences are like those of x, fills at most 2^(62 - headroom_bits). Rows that are zero or not
  /// finite get the exponent of the row with the largest entries; all get 0 where no row is usable.
  /// x [T, K], dy [T, N] of the activation type, exponents [N] i32 out.
  void choose_fisher_exponents(ConstTensorView x, ConstTensorView dy, const SequenceCut& cut,
                               int headroom_bits, TensorView exponents);

  /// fisher.sums += fixed point of (dy_s^T x_s)^2 for every sequence s of the micro-batch; the
  /// gradients [N, K] are formed in float32, of f64 in float64, and never all held. Entries of one
  /// sequence that reach 2^62 / total_sequences are a burst of their row: its largest, in
  /// fisher_burst_unit, is added to overflow[1 + n]. An entry that reaches 2^62, or is NaN, is
  /// counted in overflow[0] instead. The sums over all sequences are right if overflow[0] is 0 and
  /// no row has fisher_burst_limit. Kim et al., "SqueezeLLM", eq. 3, with one gradient per
  /// sequence.
  void accumulate_fisher(ConstTensorView x, ConstTensorView dy, const SequenceCut& cut,
                         const FisherView& fisher);

  static constexpr std::int64_t fisher_burst_unit = std::int64_t{1} << 32;
  static constexpr std::int64_t fisher_burst_limit = std::int64_t{1} << 30;

  /// out [N, K] f32 = sums * 2^-exponents, rounded to nearest.
  void fisher_values(const FisherView& fisher, TensorView out);

  /// out[t] = x[t] * sqrt(mean over n of dy[t, n]^2): then X^T X of out is GuidedQuant's H with one
  /// group (Kim et al. 2025, eq. 6). x, out [T, K], dy [T, N].
  void scale_by_gradient(ConstTensorView x, ConstTensorView dy, TensorView out);

 private:
  virtual void do_choose_gram_exponents(ConstTensorView x, std::int64_t total_tokens,
                                        int headroom_bits, TensorView exponents) = 0;
  virtual void do_accumulate_gram(ConstTensorView x, std::int64_t total_tokens,
                                  const GramView& gram) = 0;
  virtual void do_gram_diagonal(const GramView& gram, TensorView out) = 0;
  virtual void do_choose_fisher_exponents(ConstTensorView x, ConstTensorView dy,
                                          const SequenceCut& cut, int headroom_bits,
                                          TensorView exponents) = 0;
  virtual void do_accumulate_fisher(ConstTensorView x, ConstTensorView dy, const SequenceCut& cut,
                                    const FisherView& fisher) = 0;
  virtual void do_fisher_values(const FisherView& fisher, TensorView out) = 0;
  virtual void do_scale_by_gradient(ConstTensorView x, ConstTensorView dy, TensorView out) = 0;
};

}  // namespace quern
