#pragma once

#include "kernels/cuda/context.h"

namespace quern::gpu {

/// Statistics of activations of the backend's type. Products on tensor cores with float32 sums
/// (float32 operands without TF32), of float64 activations in float64; everything after them as on
/// the CPU.
class CudaStatisticsOps final : public StatisticsOps {
 public:
  explicit CudaStatisticsOps(CudaContext& context) : context_(context) {}

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

  TensorView tile_products(std::int64_t elems);

  CudaContext& context_;
  Tensor products_;  ///< of X^T X on one tile at a time; kept from call to call
};

/// StatisticsOps::gram_diagonal.
void read_gram_diagonal(CudaContext& context, const GramView& gram, TensorView out);

/// `batch` products c_b [rows, columns] = a_b^T b_b of row-major operands a_b [depth, rows] and
/// b_b [depth, columns] of one activation type; strides in elements. c is f64 if they are, else
/// f32; its rows are packed.
struct TransposedProduct {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t depth = 0;
  const std::byte* a = nullptr;
  std::int64_t a_row = 0;    ///< elements from one row of a to the next
  std::int64_t a_batch = 0;  ///< elements from one a to the next
  const std::byte* b = nullptr;
  std::int64_t b_row = 0;
  std::int64_t b_batch = 0;
  DType dtype = DType::bf16;
  std::int64_t batch = 1;
};

/// c_b follow one another from the beginning of c. Sums in c's type, never TF32. Asynchronous.
void multiply_transposed(CudaContext& context, const TransposedProduct& product, TensorView c);

}  // namespace quern::gpu
