#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/core/error.h"
#include "tests/kernels/cpu/fisher_case.h"

namespace quern::test {
namespace {

class FisherTest : public testing::TestWithParam<FisherSize> {};

// Gradients exact in float leave one error: rounding each square to half a unit of fixed point.
TEST_P(FisherTest, FixedPointIsWithinItsRounding) {
  const FisherSize size = GetParam();
  CpuOps cpu(2);
  const Batch batch = exact_batch(cpu, size);
  Fisher fisher(cpu, size.outputs, size.inputs);
  fisher.choose(batch, 128);
  fisher.add(batch, 128);
  EXPECT_EQ(fisher.refused(), 0);
  for (std::int64_t n = 0; n < size.outputs; ++n) {
    std::vector<long double> exact;
    for (std::int64_t k = 0; k < size.inputs; ++k) exact.push_back(batch.fisher(n, k));
    const long double largest = *std::ranges::max_element(exact);
    for (std::int64_t k = 0; k < size.inputs; ++k) {
      const long double error = std::fabs(fisher.value(n, k) - exact[at(k)]);
      ASSERT_LE(error, static_cast<long double>(size.sequences) * fisher.unit(n) / 2.0L);
      if (exact[at(k)] > largest * 0x1p-30L) {
        ASSERT_LE(error, exact[at(k)] * 0x1p-20L) << n << ", " << k;
      }
    }
  }
}

// Any values: a gradient g is off by d <= (L + 1) u sum |dy x|, its square by 2 |g| d + d^2.
TEST_P(FisherTest, EqualsLoopsInDouble) {
  const FisherSize size = GetParam();
  CpuOps cpu(3);
  const Batch batch = normal_batch(cpu, size, 4);
  Fisher fisher(cpu, size.outputs, size.inputs);
  fisher.choose(batch, size.sequences, 6);
  fisher.add(batch, size.sequences);
  EXPECT_EQ(fisher.refused(), 0);
  for (std::int64_t n = 0; n < size.outputs; ++n) {
    for (std::int64_t k = 0; k < size.inputs; ++k) {
      long double exact = 0.0L;
      long double bound = 0.0L;
      for (std::int64_t s = 0; s < size.sequences; ++s) {
        const auto [gradient, magnitude] = batch.gradient(s, n, k);
        const long double off = static_cast<long double>(size.length + 1) * 0x1p-24L * magnitude;
        exact += gradient * gradient;
        bound += 2.0L * std::fabs(gradient) * off + off * off + fisher.unit(n) / 2.0L;
      }
      ASSERT_LE(std::fabs(fisher.value(n, k) - exact), bound) << n << ", " << k;
    }
  }
}

TEST_P(FisherTest, ExponentsAreTheLargestThatFit) {
  const FisherSize size = GetParam();
  CpuOps cpu(2);
  const Batch batch = exact_batch(cpu, size);
  Fisher fisher(cpu, size.outputs, size.inputs);
  fisher.choose(batch, 96, 5);
  std::int32_t smallest = 1 << 20;
  for (std::int64_t n = 0; n < size.outputs; ++n) {
    smallest = std::min(smallest, fisher.exponent(n));
  }
  for (std::int64_t n = 0; n < size.outputs; ++n) {
    long double largest = 0.0L;
    for (std::int64_t k = 0; k < size.inputs; ++k) {
      largest = std::max(largest, batch.fisher(n, k));
    }
    // A row of one element may be zero.
    if (largest == 0.0L) {
      EXPECT_EQ(fisher.exponent(n), smallest);
      continue;
    }
    const long double filled = largest * 96.0L / static_cast<long double>(size.sequences) *
                               std::ldexp(1.0L, fisher.exponent(n));
    EXPECT_LE(filled, 0x1p57L * (1.0L + 0x1p-50L)) << n;
    EXPECT_GT(filled, 0x1p56L * (1.0L - 0x1p-50L)) << n;
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, FisherTest,
                         testing::Values(FisherSize{1, 1, 1, 1}, FisherSize{3, 31, 33, 32},
                                         FisherSize{2, 33, 1, 129}, FisherSize{5, 32, 31, 1},
                                         FisherSize{4, 7, 127, 129}, FisherSize{2, 129, 129, 31},
                                         FisherSize{1, 127, 32, 127}, FisherSize{2, 6, 300, 520}));

TEST(FisherExponentTest, UnusableRowsGetThatOfTheLargest) {
  CpuOps cpu;
  const std::vector<double> dy = {0.0, 1.0, INFINITY, 0.25, std::nan(""), 4.0, 1e30};
  const Batch batch(cpu, {1, 1, 7, 2}, {1.0, 0.5}, dy);
  Fisher fisher(cpu, 7, 2);
  fisher.choose(batch, 4, 0);
  // Row n has the maximum dy^2 and four sequences: exponents 60, 64, 56 for dy 1, 1/4, 4.
  const std::int32_t huge = fisher.exponent(6);
  EXPECT_LT(huge, -100);
  EXPECT_EQ(fisher.exponent(1), 60);
  EXPECT_EQ(fisher.exponent(3), 64);
  EXPECT_EQ(fisher.exponent(5), 56);
  for (const std::int64_t unusable : {0, 2, 4}) EXPECT_EQ(fisher.exponent(unusable), huge);
}

TEST(FisherExponentTest, NothingUsableGivesZero) {
  CpuOps cpu;
  Fisher fisher(cpu, 3, 2);
  const Batch batch(cpu, {1, 1, 3, 2}, {1.0, 2.0}, {0.0, std::nan(""), -INFINITY});
  fisher.exponent(0) = 5;
  fisher.choose(batch, 4);
  for (const std::int64_t n : {0, 1, 2}) EXPECT_EQ(fisher.exponent(n), 0);
  const Batch empty(cpu, {0, 4, 3, 2}, {}, {});
  fisher.exponent(1) = 5;
  fisher.choose(empty, 4);
  for (const std::int64_t n : {0, 1, 2}) EXPECT_EQ(fisher.exponent(n), 0);
}

TEST(FisherOverflowTest, CountsWhatReachesTheLimit) {
  CpuOps cpu;
  const Batch batch(cpu, {1, 1, 4, 2}, {1.0, 0.5}, {1.0, -1.0, std::nan(""), INFINITY});
  Fisher fisher(cpu, 4, 2);
  fisher.exponent(0) = 59;
  fisher.exponent(1) = 60;
  fisher.add(batch, 4);
  EXPECT_EQ(fisher.sum(0, 0), std::int64_t{1} << 59);
  EXPECT_EQ(fisher.sum(0, 1), std::int64_t{1} << 57);
  EXPECT_EQ(fisher.sum(1, 0), std::int64_t{1} << 60);  // 2^62 / 4 sequences: a burst
  EXPECT_EQ(fisher.sum(1, 1), std::int64_t{1} << 58);
  EXPECT_EQ(fisher.burst(0), 0);
  EXPECT_EQ(fisher.burst(1), (1 << 28) + 1);
  for (const std::int64_t k : {0, 1}) {
    EXPECT_EQ(fisher.sum(2, k), 0);
    EXPECT_EQ(fisher.sum(3, k), 0);
  }
  EXPECT_EQ(fisher.refused(), 4);
  fisher.add(batch, 4);
  EXPECT_EQ(fisher.refused(), 8);
}

TEST(FisherOverflowTest, BurstsOfARowFillWhatIsLeftForThem) {
  CpuOps cpu;
  const Batch batch(cpu, {1, 1, 2, 600}, std::vector<double>(600, 1.0), {1.0, -0.5});
  Fisher fisher(cpu, 2, 600);
  fisher.exponent(0) = 60;
  fisher.exponent(1) = 40;
  for (int sequence = 0; sequence < 3; ++sequence) fisher.add(batch, 4);
  EXPECT_FALSE(fisher.overflowed());
  EXPECT_EQ(fisher.burst(0), 3 * ((1 << 28) + 1)) << "once for all columns of a sequence";
  EXPECT_EQ(fisher.burst(1), 0);
  for (const std::int64_t k : {0, 599}) {
    EXPECT_EQ(fisher.sum(0, k), std::int64_t{3} << 60);
    EXPECT_EQ(fisher.sum(1, k), std::int64_t{3} << 38);
  }
  fisher.add(batch, 4);
  EXPECT_TRUE(fisher.overflowed());
  EXPECT_EQ(fisher.refused(), 0);
  fisher.clear();
  fisher.exponent(0) = 62;
  fisher.add(batch, 4);
  EXPECT_EQ(fisher.refused(), 600);
}

// A later micro-batch is larger than the exponents allow: chosen from it, they serve both.
TEST(FisherOverflowTest, RetryWithSmallerExponentsGivesTheSum) {
  CpuOps cpu(2);
  const FisherSize size{2, 16, 33, 31};
  const Batch small = normal_batch(cpu, size, 1);
  std::vector<double> dy = small.dy;
  for (double& value : dy) value *= 1000.0;
  const Batch large(cpu, size, small.x, dy);
  Fisher fisher(cpu, size.outputs, size.inputs);
  fisher.choose(small, 4);
  fisher.add(small, 4);
  EXPECT_EQ(fisher.refused(), 0);
  fisher.add(large, 4);
  EXPECT_GT(fisher.refused(), 0);
  fisher.clear();
  fisher.choose(large, 4);
  fisher.add(small, 4);
  fisher.add(large, 4);
  EXPECT_EQ(fisher.refused(), 0);
  for (std::int64_t n = 0; n < size.outputs; ++n) {
    for (std::int64_t k = 0; k < size.inputs; ++k) {
      const long double exact = small.fisher(n, k) + large.fisher(n, k);
      ASSERT_NEAR(static_cast<double>(fisher.value(n, k)), static_cast<double>(exact),
                  1e-5 * static_cast<double>(exact) + 1e-10);
    }
  }
}

TEST(FisherOrderTest, SumsDoNotDependOnOrderNorOnHowSequencesAreBatched) {
  CpuOps cpu(2);
  const FisherSize size{4, 24, 65, 70};
  std::vector<Batch> batches;
  for (const unsigned seed : {1U, 2U, 3U}) batches.push_back(normal_batch(cpu, size, seed));
  Fisher fisher(cpu, size.outputs, size.inputs);
  fisher.choose(batches[0], 12, 8);
  const auto sum_in = [&](std::initializer_list<std::size_t> order) {
    fisher.clear();
    for (const std::size_t index : order) fisher.add(batches[index], 12);
    EXPECT_EQ(fisher.refused(), 0);
    return bytes_of(fisher.sums.view());
  };
  const std::vector<std::byte> expected = sum_in({0, 1, 2});
  EXPECT_EQ(sum_in({2, 1, 0}), expected);
  EXPECT_EQ(sum_in({1, 2, 0}), expected);
  fisher.clear();
  for (const Batch& batch : batches) {
    for (std::int64_t s = 0; s < size.sequences; ++s) {
      cpu.statistics.accumulate_fisher(batch.x_tensor.view().rows(s * size.length, size.length),
                                       batch.dy_tensor.view().rows(s * size.length, size.length),
                                       size.cut(12), fisher.view());
    }
  }
  EXPECT_EQ(bytes_of(fisher.sums.view()), expected);
}

TEST(FisherThreadsTest, BitsDoNotDependOnThreads) {
  EXPECT_TRUE(same_bytes_on_any_threads([](CpuOps& cpu) {
    const Batch batch = normal_batch(cpu, {3, 20, 530, 270}, 5);
    Fisher fisher(cpu, 530, 270);
    fisher.choose(batch, 6, 0);
    fisher.add(batch, 6);
    Tensor values = cpu.memory.allocate(DType::f32, {530, 270});
    cpu.statistics.fisher_values(fisher.view(), values.view());
    Tensor scaled = cpu.memory.allocate(DType::f32, {60, 270});
    cpu.statistics.scale_by_gradient(batch.x_tensor.view(), batch.dy_tensor.view(), scaled.view());
    std::vector<std::byte> bytes;
    for (const Tensor* part : {&fisher.exponents, &fisher.sums, &values, &scaled}) {
      const std::vector<std::byte> more = bytes_of(part->view());
      bytes.insert(bytes.end(), more.begin(), more.end());
    }
    return bytes;
  }));
}

TEST(FisherValuesTest, RoundsOnceToNearest) {
  CpuOps cpu;
  Fisher fisher(cpu, 4, 3);
  const std::int32_t exponents[] = {0, 3, 100, -70};
  // Float spacing is 2 at 2^24 and 2^31 at 2^54; through double the +1 of the latter would be lost.
  const std::int64_t sums[] = {(1LL << 24) + 1, (1LL << 24) + 3, (1LL << 54) + (1LL << 30) + 1};
  for (std::int64_t n = 0; n < 4; ++n) {
    fisher.exponent(n) = exponents[n];
    for (std::int64_t k = 0; k < 3; ++k) fisher.sum(n, k) = sums[k];
  }
  Tensor out = cpu.memory.allocate(DType::f32, {4, 3});
  cpu.statistics.fisher_values(fisher.view(), out.view());
  const double rounded[] = {0x1p24, 0x1p24 + 4.0, 0x1p54 + 0x1p31};
  for (std::int64_t n = 0; n < 4; ++n) {
    for (std::int64_t k = 0; k < 3; ++k) {
      EXPECT_EQ(static_cast<double>(out.view().as<float>()[n * 3 + k]),
                std::ldexp(rounded[k], -exponents[n]));
    }
  }
}

TEST(FisherShapeTest, RefusesWhatDoesNotFit) {
  CpuOps cpu;
  const FisherSize size{2, 3, 4, 5};
  const Batch batch = normal_batch(cpu, size, 1);
  Fisher fisher(cpu, 4, 5);
  EXPECT_NO_THROW(fisher.add(batch, 2));
  EXPECT_THROW(fisher.add(batch, 1), ShapeError);
  EXPECT_THROW(fisher.choose(batch, 0), ShapeError);
  EXPECT_THROW(fisher.choose(batch, 2, 63), ShapeError);
  EXPECT_THROW(fisher.choose(batch, 2, -1), ShapeError);
  Fisher transposed(cpu, 5, 4);
  EXPECT_THROW(transposed.add(batch, 2), ShapeError);
  EXPECT_THROW(transposed.choose(batch, 2), ShapeError);
  const auto add = [&](ConstTensorView x, ConstTensorView dy, const SequenceCut& cut) {
    cpu.statistics.accumulate_fisher(x, dy, cut, fisher.view());
  };
  const ConstTensorView x = batch.x_tensor.view();
  const ConstTensorView dy = batch.dy_tensor.view();
  EXPECT_THROW(add(x, dy, {4, 2}), ShapeError);
  EXPECT_THROW(add(x, dy, {0, 2}), ShapeError);
  EXPECT_THROW(add(x.rows(0, 3), dy, {3, 2}), ShapeError);
  const Tensor half = cpu.memory.allocate(DType::f16, {6, 5});
  const Tensor half_dy = cpu.memory.allocate(DType::f16, {6, 4});
  EXPECT_THROW(add(half.view(), dy, {3, 2}), ShapeError);
  EXPECT_THROW(add(half.view(), half_dy.view(), {3, 2}), ShapeError);
  Tensor out = cpu.memory.allocate(DType::f32, {5, 4});
  EXPECT_THROW(cpu.statistics.fisher_values(fisher.view(), out.view()), ShapeError);
  EXPECT_THROW(cpu.statistics.scale_by_gradient(x, dy, out.view()), ShapeError);
}

}  // namespace
}  // namespace quern::test
