#include <gtest/gtest.h>

#include "kernels/core/error.h"
#include "tests/kernels/cuda/attention_case.h"
#include "tests/kernels/cuda/cuda_case.h"

namespace quern::test {
namespace {

class CudaAttentionTest : public CudaCase {
 protected:
  void compare(const AttentionShape& shape, std::int64_t sequences) {
    SCOPED_TRACE(testing::Message() << "heads " << shape.heads << "/" << shape.kv_heads
                                    << ", head_dim " << shape.head_dim << ", length "
                                    << shape.sequence_length << ", window " << shape.window);
    const std::int64_t tokens = sequences * shape.sequence_length;
    const Twin q = values({tokens, shape.heads * shape.head_dim}, 1);
    const Twin k = values({tokens, shape.kv_heads * shape.head_dim}, 2);
    const Twin v = values({tokens, shape.kv_heads * shape.head_dim}, 3);
    Twin out = poisoned({tokens, shape.heads * shape.head_dim});
    cpu().layers().attention(q.cpu.view(), k.cpu.view(), v.cpu.view(), shape, out.cpu.view());
    cuda().layers().attention(q.cuda.view(), k.cuda.view(), v.cuda.view(), shape, out.cuda.view());
    // A result is a mean of values: its weights are rounded to the type once, it itself once; a
    // score is a sum of head_dim products, and its error is relative in the weight.
    const auto terms = static_cast<double>(shape.head_dim + shape.sequence_length);
    const double sums = 16 * std::sqrt(terms) * sum_rounding();
    const double weights = dtype_bytes(type()) == 2 ? rounding() : 0.0;
    expect_close(out, {rounding(), (weights + sums) * magnitude(v)});
  }
};

TEST_P(CudaAttentionTest, AgreesWithTheCpu) {
  for (const AttentionShape& shape : attention_shapes()) compare(shape, 2);
}

TEST_P(CudaAttentionTest, AgreesOnLongSequences) {
  AttentionShape shape = attention_shape(128, 1500);
  compare(shape, 1);
  shape.window = 300;
  compare(shape, 1);
}

TEST_P(CudaAttentionTest, KeepsLargeScoresFinite) {
  const AttentionShape shape = attention_shape(64, 129);
  const Twin q = values({129, 256}, 1, 60.0);
  const Twin k = values({129, 128}, 2, 60.0);
  const Twin v = values({129, 128}, 3);
  Twin out = poisoned({129, 256});
  cuda().layers().attention(q.cuda.view(), k.cuda.view(), v.cuda.view(), shape, out.cuda.view());
  const auto limit = magnitude(v) * (1 + 2 * rounding());
  for (const double value : cuda_values(out.cuda)) ASSERT_LE(std::fabs(value), limit);
}

TEST_P(CudaAttentionTest, RefusesHeadsThatAreTooWide) {
  const AttentionShape shape = attention_shape(264, 3);
  const Twin q = values({3, 4 * 264}, 1);
  const Twin k = values({3, 2 * 264}, 1);
  Twin out = poisoned({3, 4 * 264});
  EXPECT_THROW(cuda().layers().attention(q.cuda.view(), k.cuda.view(), k.cuda.view(), shape,
                                         out.cuda.view()),
               InputError);
}

INSTANTIATE_TEST_SUITE_P(Types, CudaAttentionTest, testing::ValuesIn(activation_types()),
                         type_name);

}  // namespace
}  // namespace quern::test
