#pragma once

#include "kernels/cpu/scratch.h"
#include "kernels/statistics_ops.h"

namespace quern {

/// Statistics of float activations and gradients; bits do not depend on the thread count.
class CpuStatisticsOps final : public StatisticsOps {
 public:
  CpuStatisticsOps(Memory& memory, int threads)
      : threads_(threads), tiles_(memory, threads), channels_(memory, 1) {}

 private:
  void do_choose_gram_exponents(ConstTensorView x, std::int64_t total_tokens, int headroom_bits,
                                TensorView exponents) override;
  void do_accumulate_gram(ConstTensorView x, std::int64_t total_tokens,
                          const GramView& gram) override;
  void do_gram_diagonal(const GramView& gram, TensorView out) override;
  void do_choose_fisher_exponents(ConstTensorView x, ConstTensorView dy, const SequenceCut& cut,
                                  int headroom_bits, TensorView exponents) override;
  void do_accumulate_fisher(ConstTensorView x, ConstTensorView dy, const SequenceCut& cut,
                            const FisherView& fisher) override;
  void do_fisher_values(const FisherView& fisher, TensorView out) override;
  void do_scale_by_gradient(ConstTensorView x, ConstTensorView dy, TensorView out) override;

  int threads_;
  Scratch tiles_;     ///< one tile of products for each thread, with its sums of squares
  Scratch channels_;  ///< doubles for each channel or row
};

/// StatisticsOps::gram_diagonal, out [K].
void read_gram_diagonal(const GramView& gram, double* out);

}  // namespace quern
