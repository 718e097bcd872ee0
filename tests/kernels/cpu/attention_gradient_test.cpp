#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/core/error.h"
#include "tests/kernels/cpu/attention_case.h"
#include "tests/kernels/cpu/finite_difference.h"

namespace quern::test {
namespace {

/// Inputs of a case, what the forward pass makes of them, and the gradients.
struct AttentionRun : AttentionInputs {
  AttentionRun(CpuOps& ops, const AttentionCase& that, double query_scale)
      : AttentionInputs(that, query_scale), dy(normal_values(q_shape.elems(), 4)) {
    const Tensor queries = store(ops.memory, DType::f32, q_shape, q);
    const Tensor keys = store(ops.memory, DType::f32, kv_shape, k);
    const Tensor values = store(ops.memory, DType::f32, kv_shape, v);
    const Tensor outward = store(ops.memory, DType::f32, q_shape, dy);
    Tensor out = ops.memory.allocate(DType::f32, q_shape);
    ops.layers.attention(queries.view(), keys.view(), values.view(), shape, out.view());
    for (Tensor* gradient : {&dq, &dk, &dv}) {
      const Shape& like = gradient == &dq ? q_shape : kv_shape;
      Values poison(static_cast<std::size_t>(like.elems()), std::nan(""));
      *gradient = store(ops.memory, DType::f32, like, poison);
    }
    ops.gradients.attention({queries.view(), keys.view(), values.view(), out.view()},
                            outward.view(), shape, {dq.view(), dk.view(), dv.view()});
  }

  double loss(const Values& queries, const Values& keys, const Values& values) const {
    return weighted_sum(dy, exact_attention(queries, keys, values, shape));
  }

  /// A weight is off by the factor 1 +- (2 e + (n + 16) u), e the error of a score as in the
  /// forward pass; its gradient by (d + 4) u of its terms. Four of them for sums of either sign.
  double tolerance() const {
    double products = 0.0;
    for (const double value : q) products = std::max(products, std::fabs(value));
    const auto width = static_cast<double>(shape.head_dim);
    const double score_error = std::sqrt(width) * products * static_cast<double>(shape.scale);
    return 4.0 * kRounding *
           (2.0 * score_error + static_cast<double>(shape.sequence_length) + width + 20.0);
  }

  Values dy;
  Tensor dq, dk, dv;
};

class AttentionGradientTest : public testing::TestWithParam<AttentionCase> {};

TEST_P(AttentionGradientTest, EqualsFiniteDifferences) {
  for (const double query_scale : {1.0, 8.0}) {
    CpuOps cpu(2);
    const AttentionRun run(cpu, GetParam(), query_scale);
    const double relative = run.tolerance();
    expect_gradient([&](const Values& q) { return run.loss(q, run.k, run.v); }, run.q,
                    run.dq.view(), relative);
    expect_gradient([&](const Values& k) { return run.loss(run.q, k, run.v); }, run.k,
                    run.dk.view(), relative);
    expect_gradient([&](const Values& v) { return run.loss(run.q, run.k, v); }, run.v,
                    run.dv.view(), relative);
  }
}

TEST_P(AttentionGradientTest, BitsDoNotDependOnThreads) {
  EXPECT_TRUE(same_bytes_on_any_threads([&](CpuOps& cpu) {
    const AttentionRun run(cpu, GetParam(), 1.0);
    std::vector<std::byte> bytes;
    for (const Tensor* gradient : {&run.dq, &run.dk, &run.dv}) {
      const std::vector<std::byte> part = bytes_of(gradient->view());
      bytes.insert(bytes.end(), part.begin(), part.end());
    }
    return bytes;
  }));
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttentionGradientTest,
                         testing::Values(AttentionCase{1, attention_shape(1, 1, 2, 2, 0)},
                                         AttentionCase{3, attention_shape(2, 1, 64, 31, 0)},
                                         AttentionCase{2, attention_shape(2, 2, 16, 32, 0)},
                                         AttentionCase{2, attention_shape(4, 2, 32, 33, 0)},
                                         AttentionCase{2, attention_shape(3, 3, 31, 127, 0)},
                                         AttentionCase{1, attention_shape(4, 1, 33, 129, 0)},
                                         AttentionCase{2, attention_shape(2, 1, 16, 200, 33)},
                                         AttentionCase{1, attention_shape(2, 1, 8, 300, 128)},
                                         AttentionCase{1, attention_shape(2, 1, 8, 130, 1000)}));

// A query that sees only itself passes dy on to its value and nothing to q and k.
TEST(AttentionGradientBorderTest, OneVisibleKeyLeavesQueriesWithoutGradient) {
  for (const AttentionShape& shape :
       {attention_shape(2, 2, 16, 1, 0), attention_shape(2, 2, 16, 140, 1)}) {
    CpuOps cpu(2);
    const AttentionRun run(cpu, {2, shape}, 1.0);
    for (std::size_t i = 0; i < run.q.size(); ++i) {
      ASSERT_EQ(run.dv.view().as<float>()[i], static_cast<float>(run.dy[i]));
      ASSERT_NEAR(run.dq.view().as<float>()[i], 0.0, 1e-4);
      ASSERT_NEAR(run.dk.view().as<float>()[i], 0.0, 1e-4);
    }
  }
}

// What is not finite stays with the queries that see it.
TEST(AttentionGradientBorderTest, UnseenKeysDoNotSpoilGradients) {
  CpuOps cpu;
  const AttentionShape shape = attention_shape(1, 1, 4, 40, 0);
  std::vector<double> values = normal_values(40 * 4, 1);
  const Tensor x = store(cpu.memory, DType::f32, {40, 4}, values);
  values[39 * 4] = INFINITY;
  const Tensor v = store(cpu.memory, DType::f32, {40, 4}, values);
  Tensor dq = cpu.memory.allocate(DType::f32, {40, 4});
  Tensor dk = cpu.memory.allocate(DType::f32, {40, 4});
  Tensor dv = cpu.memory.allocate(DType::f32, {40, 4});
  cpu.gradients.attention({x.view(), x.view(), v.view(), x.view()}, x.view(), shape,
                          {dq.view(), dk.view(), dv.view()});
  for (std::int64_t i = 0; i < 39 * 4; ++i) {
    ASSERT_TRUE(std::isfinite(dq.view().as<float>()[i])) << i;
  }
}

TEST(AttentionGradientShapeTest, RefusesWhatDoesNotFit) {
  CpuOps cpu;
  const Tensor q = cpu.memory.allocate(DType::f32, {20, 32});
  const Tensor kv = cpu.memory.allocate(DType::f32, {20, 16});
  const Tensor half = cpu.memory.allocate(DType::bf16, {20, 16});
  Tensor dq = cpu.memory.allocate(DType::f32, {20, 32});
  Tensor dk = cpu.memory.allocate(DType::f32, {20, 16});
  Tensor dv = cpu.memory.allocate(DType::f32, {20, 16});
  cpu.memory.clear(dq.view());
  const auto attention = [&](const AttentionShape& shape, const Tensor& v, const Tensor& dy) {
    cpu.gradients.attention({q.view(), kv.view(), v.view(), q.view()}, dy.view(), shape,
                            {dq.view(), dk.view(), dv.view()});
  };
  EXPECT_NO_THROW(attention(attention_shape(4, 2, 8, 10, 0), kv, q));
  EXPECT_THROW(attention(attention_shape(4, 2, 8, 11, 0), kv, q), ShapeError);
  EXPECT_THROW(attention(attention_shape(4, 3, 8, 10, 0), kv, q), ShapeError);
  EXPECT_THROW(attention(attention_shape(4, 2, 8, 10, -1), kv, q), ShapeError);
  EXPECT_THROW(attention(attention_shape(4, 2, 8, 10, 0), half, q), ShapeError);
  EXPECT_THROW(attention(attention_shape(4, 2, 8, 10, 0), q, q), ShapeError);
  EXPECT_THROW(attention(attention_shape(4, 2, 8, 10, 0), kv, kv), ShapeError);
}

}  // namespace
}  // namespace quern::test
