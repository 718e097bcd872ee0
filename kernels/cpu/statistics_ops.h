#pragma once

#include "kernels/cpu/scratch.h"
#include "kernels/statistics_ops.h"

namespace quern {

/// Statistics of float activations; bits do not depend on the thread count.
class CpuStatisticsOps final : public StatisticsOps {
 public:
  CpuStatisticsOps(Memory& memory, int threads)
      : threads_(threads), tiles_(memory, threads), channels_(memory, 1) {}

 private:
  void do_choose_gram_exponents(ConstTensorView x, std::int64_t total_tokens, int headroom_bits,
                                TensorView exponents) override;
  void do_accumulate_gram(ConstTensorView x, std::int64_t total_tokens,
                          const GramView& gram) override;

  int threads_;
  Scratch tiles_;     ///< one tile of products for each thread
  Scratch channels_;  ///< one double for each channel
};

}  // namespace quern
