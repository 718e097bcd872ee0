#include <gtest/gtest.h>

#include <algorithm>

#include "tests/kernels/cuda/attention_case.h"
#include "tests/kernels/cuda/cuda_case.h"

namespace quern::test {
namespace {

/// One call's operands on both backends.
struct GradientTwins {
  Twin q, k, v, out, dy, dq, dk, dv;
};

class CudaAttentionGradientTest : public CudaCase {
 protected:
  GradientTwins run(const AttentionShape& shape, std::int64_t sequences) {
    const std::int64_t tokens = sequences * shape.sequence_length;
    const Shape wide{tokens, shape.heads * shape.head_dim};
    const Shape narrow{tokens, shape.kv_heads * shape.head_dim};
    GradientTwins twins{values(wide, 1), values(narrow, 2), values(narrow, 3), poisoned(wide),
                        values(wide, 4), poisoned(wide),    poisoned(narrow),  poisoned(narrow)};
    auto& [q, k, v, out, dy, dq, dk, dv] = twins;
    // Both go back from the CPU's result, rounded to the type.
    cpu().layers().attention(q.cpu.view(), k.cpu.view(), v.cpu.view(), shape, out.cpu.view());
    out = stored(type(), wide, cpu_values(out.cpu));
    cpu().gradients().attention({q.cpu.view(), k.cpu.view(), v.cpu.view(), out.cpu.view()},
                                dy.cpu.view(), shape,
                                {dq.cpu.view(), dk.cpu.view(), dv.cpu.view()});
    cuda().gradients().attention({q.cuda.view(), k.cuda.view(), v.cuda.view(), out.cuda.view()},
                                 dy.cuda.view(), shape,
                                 {dq.cuda.view(), dk.cuda.view(), dv.cuda.view()});
    return twins;
  }

  /// Weights and their gradients are rounded to the type once, whose errors add like random ones to
  /// less than the largest result; the rest are sums in float or double.
  Tolerance tolerance(const AttentionShape& shape, const Twin& result) {
    const auto terms = static_cast<double>(shape.head_dim + shape.sequence_length);
    const double sums = 64 * std::sqrt(terms) * sum_rounding();
    const double largest = std::max(1.0, magnitude(result));
    const double weights = dtype_bytes(type()) == 2 ? 2 * rounding() : 0.0;
    return {rounding(), (weights + sums) * largest};
  }

  void compare(const AttentionShape& shape, std::int64_t sequences) {
    SCOPED_TRACE(testing::Message() << "heads " << shape.heads << "/" << shape.kv_heads
                                    << ", head_dim " << shape.head_dim << ", length "
                                    << shape.sequence_length << ", window " << shape.window);
    const GradientTwins twins = run(shape, sequences);
    for (const Twin* result : {&twins.dq, &twins.dk, &twins.dv}) {
      expect_close(*result, tolerance(shape, *result));
    }
  }
};

TEST_P(CudaAttentionGradientTest, AgreesWithTheCpu) {
  for (const AttentionShape& shape : attention_shapes()) compare(shape, 2);
}

TEST_P(CudaAttentionGradientTest, AgreesOnLongSequences) {
  AttentionShape shape = attention_shape(128, 1500);
  compare(shape, 1);
  shape.window = 300;
  compare(shape, 1);
}

TEST_P(CudaAttentionGradientTest, RepeatsItsBits) {
  const AttentionShape shape = attention_shape(64, 200);
  const GradientTwins first = run(shape, 2);
  const GradientTwins second = run(shape, 2);
  EXPECT_EQ(cuda_values(first.dq.cuda), cuda_values(second.dq.cuda));
  EXPECT_EQ(cuda_values(first.dk.cuda), cuda_values(second.dk.cuda));
  EXPECT_EQ(cuda_values(first.dv.cuda), cuda_values(second.dv.cuda));
}

INSTANTIATE_TEST_SUITE_P(Types, CudaAttentionGradientTest, testing::ValuesIn(activation_types()),
                         type_name);

}  // namespace
}  // namespace quern::test
