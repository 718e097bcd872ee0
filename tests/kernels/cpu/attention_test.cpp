#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/core/error.h"
#include "tests/kernels/cpu/attention_case.h"

namespace quern::test {
namespace {

/// Where a query head finds its key or value of a token.
std::int64_t kv_offset(const AttentionShape& shape, std::int64_t token, std::int64_t head) {
  return (token * shape.kv_heads + head * shape.kv_heads / shape.heads) * shape.head_dim;
}

struct ExactHead {
  std::vector<double> out;
  double tolerance;
};

/// One token and head. Tolerance: a score is off by e = (d + 2) u scale sum |q k| at most, a
/// weight by the factor 1 +- (2 e + (n + 16) u) and out by twice that times the largest |v|.
ExactHead exact_head(const AttentionInputs& in, std::int64_t token, std::int64_t head) {
  const auto [heads, kv_heads, width, length, window, scale] = in.shape;
  const std::int64_t position = token % length;
  const std::int64_t seen = window == 0 ? position + 1 : std::min(window, position + 1);
  const double* query = in.q.data() + (token * heads + head) * width;
  std::vector<double> scores;
  double score_error = 0.0;
  double largest_value = 0.0;
  for (std::int64_t other = token - seen + 1; other <= token; ++other) {
    const double* key = in.k.data() + kv_offset(in.shape, other, head);
    const double* value = in.v.data() + kv_offset(in.shape, other, head);
    double score = 0.0;
    double magnitude = 0.0;
    for (std::int64_t d = 0; d < width; ++d) {
      const double term = query[d] * key[d] * static_cast<double>(scale);
      score += term;
      magnitude += std::fabs(term);
      largest_value = std::max(largest_value, std::fabs(value[d]));
    }
    scores.push_back(score);
    score_error = std::max(score_error, static_cast<double>(width + 2) * kRounding * magnitude);
  }
  const double largest = *std::ranges::max_element(scores);
  ExactHead exact{std::vector<double>(static_cast<std::size_t>(width)), 0.0};
  double sum = 0.0;
  for (std::int64_t j = 0; j < seen; ++j) {
    const double weight = std::exp(scores[static_cast<std::size_t>(j)] - largest);
    sum += weight;
    const double* value = in.v.data() + kv_offset(in.shape, token - seen + 1 + j, head);
    for (std::int64_t d = 0; d < width; ++d) {
      exact.out[static_cast<std::size_t>(d)] += weight * value[d];
    }
  }
  for (double& value : exact.out) value /= sum;
  exact.tolerance =
      2.0 * largest_value * (2.0 * score_error + static_cast<double>(seen + 16) * kRounding);
  return exact;
}

Tensor attend(CpuOps& cpu, AttentionInputs& in) {
  const Tensor q = store(cpu.memory, DType::f32, in.q_shape, in.q);
  const Tensor k = store(cpu.memory, DType::f32, in.kv_shape, in.k);
  const Tensor v = store(cpu.memory, DType::f32, in.kv_shape, in.v);
  std::vector<double> poison(in.q.size(), NAN);
  Tensor out = store(cpu.memory, DType::f32, in.q_shape, poison);
  cpu.layers.attention(q.view(), k.view(), v.view(), in.shape, out.view());
  return out;
}

class AttentionTest : public testing::TestWithParam<AttentionCase> {};

TEST_P(AttentionTest, EqualsSoftmaxInDouble) {
  for (const double query_scale : {1.0, 30.0}) {
    CpuOps cpu(2);
    AttentionInputs in(GetParam(), query_scale);
    const Tensor out = attend(cpu, in);
    for (std::int64_t token = 0; token < in.tokens; ++token) {
      for (std::int64_t head = 0; head < in.shape.heads; ++head) {
        const ExactHead exact = exact_head(in, token, head);
        const float* got =
            out.view().as<float>() + (token * in.shape.heads + head) * in.shape.head_dim;
        for (std::int64_t d = 0; d < in.shape.head_dim; ++d) {
          ASSERT_NEAR(got[d], exact.out[static_cast<std::size_t>(d)], exact.tolerance)
              << "token " << token << ", head " << head << ", " << d;
        }
      }
    }
  }
}

TEST_P(AttentionTest, BitsDoNotDependOnThreads) {
  EXPECT_TRUE(same_bytes_on_any_threads([&](CpuOps& cpu) {
    AttentionInputs in(GetParam(), 1.0);
    return bytes_of(attend(cpu, in).view());
  }));
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttentionTest,
                         testing::Values(AttentionCase{1, attention_shape(1, 1, 1, 1, 0)},
                                         AttentionCase{3, attention_shape(2, 1, 64, 31, 0)},
                                         AttentionCase{2, attention_shape(4, 2, 32, 33, 0)},
                                         AttentionCase{2, attention_shape(6, 6, 64, 127, 0)},
                                         AttentionCase{1, attention_shape(4, 1, 80, 129, 0)},
                                         AttentionCase{2, attention_shape(4, 2, 32, 129, 1)},
                                         AttentionCase{2, attention_shape(2, 2, 32, 200, 33)},
                                         AttentionCase{1, attention_shape(2, 1, 16, 300, 128)},
                                         AttentionCase{1, attention_shape(2, 1, 16, 130, 1000)},
                                         AttentionCase{1, attention_shape(2, 2, 128, 513, 0)}));

TEST(AttentionBorderTest, SequencesDoNotSeeEachOther) {
  const AttentionShape shape = attention_shape(2, 1, 16, 40, 0);
  CpuOps cpu(3);
  AttentionInputs both({2, shape}, 1.0);
  const Tensor out = attend(cpu, both);
  AttentionInputs second({1, shape}, 1.0);
  second.q.assign(both.q.begin() + 40 * 32, both.q.end());
  second.k.assign(both.k.begin() + 40 * 16, both.k.end());
  second.v.assign(both.v.begin() + 40 * 16, both.v.end());
  EXPECT_EQ(bytes_of(attend(cpu, second).view()), bytes_of(out.view().rows(40, 40)));
}

TEST(AttentionShapeTest, RefusesWhatDoesNotFit) {
  CpuOps cpu;
  const Tensor q = cpu.memory.allocate(DType::f32, {20, 32});
  const Tensor kv = cpu.memory.allocate(DType::f32, {20, 16});
  Tensor out = cpu.memory.allocate(DType::f32, {20, 32});
  const auto attention = [&](const AttentionShape& shape) {
    cpu.layers.attention(q.view(), kv.view(), kv.view(), shape, out.view());
  };
  EXPECT_NO_THROW(attention(attention_shape(4, 2, 8, 10, 0)));
  EXPECT_THROW(attention(attention_shape(4, 2, 8, 11, 0)), ShapeError);
  EXPECT_THROW(attention(attention_shape(4, 4, 8, 10, 0)), ShapeError);
  EXPECT_THROW(attention(attention_shape(4, 3, 8, 10, 0)), ShapeError);
  EXPECT_THROW(attention(attention_shape(4, 0, 8, 10, 0)), ShapeError);
  EXPECT_THROW(attention(attention_shape(4, 2, 8, 0, 0)), ShapeError);
  EXPECT_THROW(attention(attention_shape(4, 2, 8, 10, -1)), ShapeError);
  EXPECT_THROW(attention(attention_shape(2, 1, 8, 10, 0)), ShapeError);
  const Tensor half = cpu.memory.allocate(DType::bf16, {20, 16});
  EXPECT_THROW(cpu.layers.attention(q.view(), kv.view(), half.view(),
                                    attention_shape(4, 2, 8, 10, 0), out.view()),
               ShapeError);
}

}  // namespace
}  // namespace quern::test
