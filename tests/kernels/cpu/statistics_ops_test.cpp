#include "kernels/statistics_ops.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "kernels/core/error.h"
#include "tests/kernels/cpu/cpu_ops.h"

namespace quern::test {
namespace {

std::size_t at(std::int64_t index) {
  return static_cast<std::size_t>(index);
}

/// A Gram accumulation with its tensors, zeroed.
struct Gram {
  Gram(CpuOps& ops, std::int64_t width)
      : cpu(ops),
        channels(width),
        sums(ops.memory.allocate(DType::i64, {width, width})),
        exponents(ops.memory.allocate(DType::i32, {width})),
        overflow(ops.memory.allocate(DType::i64, {1})) {
    ops.memory.clear(sums.view());
    ops.memory.clear(exponents.view());
    ops.memory.clear(overflow.view());
  }

  GramView view() { return {sums.view(), exponents.view(), overflow.view()}; }
  void choose(const Tensor& x, std::int64_t total, int headroom = 2) {
    cpu.statistics.choose_gram_exponents(x.view(), total, headroom, exponents.view());
  }
  void add(const Tensor& x, std::int64_t total) {
    cpu.statistics.accumulate_gram(x.view(), total, view());
  }
  std::int32_t exponent(std::int64_t i) { return exponents.view().as<std::int32_t>()[i]; }
  std::int64_t sum(std::int64_t i, std::int64_t j) {
    return sums.view().as<std::int64_t>()[i * channels + j];
  }
  long double value(std::int64_t i, std::int64_t j) {
    return std::ldexp(static_cast<long double>(sum(i, j)), -exponent(i) - exponent(j));
  }
  std::int64_t refused() { return *overflow.view().as<std::int64_t>(); }

  CpuOps& cpu;
  std::int64_t channels;
  Tensor sums, exponents, overflow;
};

/// Integers times a power of two per channel: every partial sum of 512 products is exact in float.
std::vector<double> exact_inputs(std::int64_t tokens, std::int64_t channels) {
  std::mt19937 engine(7);
  std::uniform_int_distribution<int> integers(-90, 90);
  std::vector<double> x(at(tokens * channels));
  for (std::int64_t i = 0; i < tokens * channels; ++i) {
    const std::int64_t channel = i % channels;
    const int shift = channel % 37 == 5 ? 10 : channel % 41 == 7 ? -12 : 0;
    x[at(i)] = std::ldexp(static_cast<double>(integers(engine)), shift - 3);
  }
  return x;
}

long double exact_gram(const std::vector<double>& x, std::int64_t channels, std::int64_t i,
                       std::int64_t j) {
  long double sum = 0.0L;
  for (std::size_t row = 0; row < x.size(); row += at(channels)) {
    sum += static_cast<long double>(x[row + at(i)]) * static_cast<long double>(x[row + at(j)]);
  }
  return sum;
}

struct GramSize {
  std::int64_t tokens, channels;
};

class GramTest : public testing::TestWithParam<GramSize> {};

// Products exact in float leave one error: rounding each chunk to half a unit of fixed point.
TEST_P(GramTest, FixedPointIsWithinItsRounding) {
  const auto [tokens, channels] = GetParam();
  CpuOps cpu(2);
  std::vector<double> x = exact_inputs(tokens, channels);
  const Tensor tensor = store(cpu.memory, DType::f32, {tokens, channels}, x);
  Gram gram(cpu, channels);
  gram.choose(tensor, 262144);
  gram.add(tensor, 262144);
  const auto chunks = static_cast<long double>((tokens + 511) / 512);
  std::vector<long double> row_max(at(channels));
  for (std::int64_t i = 0; i < channels; ++i) {
    for (std::int64_t j = i; j < channels; ++j) {
      const long double exact = exact_gram(x, channels, i, j);
      const long double unit = std::ldexp(1.0L, -gram.exponent(i) - gram.exponent(j));
      ASSERT_LE(std::fabs(gram.value(i, j) - exact), chunks * unit / 2.0L) << i << ", " << j;
      row_max[at(i)] = std::max(row_max[at(i)], std::fabs(exact));
      row_max[at(j)] = std::max(row_max[at(j)], std::fabs(exact));
    }
  }
  for (std::int64_t i = 0; i < channels; ++i) {
    for (std::int64_t j = 0; j < i; ++j) ASSERT_EQ(gram.sum(i, j), 0) << i << ", " << j;
    for (std::int64_t j = i; j < channels; ++j) {
      const long double exact = exact_gram(x, channels, i, j);
      if (std::fabs(exact) < row_max[at(i)] * 0x1p-30L) continue;
      ASSERT_LE(std::fabs(gram.value(i, j) - exact), std::fabs(exact) * 0x1p-20L);
    }
  }
  EXPECT_EQ(gram.refused(), 0);
}

// Any values: |error| <= (512 + 1) u sum |x x| more, for the float products of a chunk.
TEST_P(GramTest, EqualsLoopsInDouble) {
  const auto [tokens, channels] = GetParam();
  CpuOps cpu(3);
  std::vector<double> x = normal_values(tokens * channels, 4);
  const Tensor tensor = store(cpu.memory, DType::f32, {tokens, channels}, x);
  Gram gram(cpu, channels);
  gram.choose(tensor, tokens, 10);  // a chunk of one token may exceed the mean by much
  gram.add(tensor, tokens);
  ASSERT_EQ(gram.refused(), 0);
  for (std::int64_t i = 0; i < channels; ++i) {
    for (std::int64_t j = i; j < channels; ++j) {
      double exact = 0.0;
      double magnitude = 0.0;
      for (std::int64_t t = 0; t < tokens; ++t) {
        const double term = x[at(t * channels + i)] * x[at(t * channels + j)];
        exact += term;
        magnitude += std::fabs(term);
      }
      const auto got = static_cast<double>(gram.value(i, j));
      const double products = static_cast<double>(std::min<std::int64_t>(tokens, 512) + 1);
      ASSERT_NEAR(got, exact, products * kRounding * magnitude + 1e-8) << i << ", " << j;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, GramTest,
                         testing::Values(GramSize{1, 1}, GramSize{31, 33}, GramSize{33, 31},
                                         GramSize{512, 32}, GramSize{513, 127}, GramSize{129, 129},
                                         GramSize{1100, 200}, GramSize{700, 400}));

TEST(GramOrderTest, SumsDoNotDependOnThreadsOrOrder) {
  const auto accumulate = [](CpuOps& cpu, bool reversed) {
    std::vector<double> first = normal_values(600 * 450, 1);
    std::vector<double> second = normal_values(600 * 450, 2, 1.5);
    const Tensor a = store(cpu.memory, DType::f32, {600, 450}, first);
    const Tensor b = store(cpu.memory, DType::f32, {600, 450}, second);
    Gram gram(cpu, 450);
    gram.choose(a, 1200, 4);
    gram.add(reversed ? b : a, 1200);
    gram.add(reversed ? a : b, 1200);
    EXPECT_EQ(gram.refused(), 0);
    return bytes_of(gram.sums.view());
  };
  CpuOps single;
  const std::vector<std::byte> reversed = accumulate(single, true);
  EXPECT_TRUE(same_bytes_on_any_threads([&](CpuOps& cpu) {
    std::vector<std::byte> bytes = accumulate(cpu, false);
    EXPECT_EQ(bytes, reversed);
    return bytes;
  }));
}

// The definition, checked from both sides: e fits and e + 1 does not.
TEST(GramExponentTest, IsTheLargestThatFits) {
  constexpr std::int64_t kTokens = 100;
  constexpr std::int64_t kTotal = 12345;
  for (const int headroom : {0, 3, 10, 62}) {
    CpuOps cpu(2);
    std::vector<double> x = normal_values(kTokens * 130, 1);
    for (std::size_t i = 0; i < x.size(); ++i) {
      x[i] = std::ldexp(x[i], static_cast<int>(i % 130) - 65);
    }
    const Tensor tensor = store(cpu.memory, DType::f32, {kTokens, 130}, x);
    Gram gram(cpu, 130);
    gram.choose(tensor, kTotal, headroom);
    for (std::int64_t i = 0; i < 130; ++i) {
      const long double filled = exact_gram(x, 130, i, i) * kTotal / kTokens;
      const long double limit = std::ldexp(1.0L, 62 - headroom);
      EXPECT_LE(std::ldexp(filled, 2 * gram.exponent(i)), limit * (1.0L + 1e-12L)) << i;
      EXPECT_GT(std::ldexp(filled, 2 * gram.exponent(i) + 2), limit * (1.0L - 1e-12L)) << i;
    }
  }
}

TEST(GramExponentTest, PowersOfTwoFillTheRangeExactly) {
  CpuOps cpu;
  std::vector<double> x = {1.0, 2.0, 0.5};
  const Tensor tensor = store(cpu.memory, DType::f32, {1, 3}, x);
  Gram gram(cpu, 3);
  gram.choose(tensor, 1, 2);
  EXPECT_EQ(gram.exponent(0), 30);
  EXPECT_EQ(gram.exponent(1), 29);
  EXPECT_EQ(gram.exponent(2), 31);
}

TEST(GramExponentTest, SilentChannelsFollowTheLargest) {
  CpuOps cpu;
  std::vector<double> x = {0.0, 4.0, 1.0, std::numeric_limits<double>::infinity()};
  const Tensor tensor = store(cpu.memory, DType::f32, {1, 4}, x);
  Gram gram(cpu, 4);
  gram.choose(tensor, 1, 0);
  EXPECT_EQ(gram.exponent(1), 29);
  EXPECT_EQ(gram.exponent(2), 31);
  EXPECT_EQ(gram.exponent(0), 29);
  EXPECT_EQ(gram.exponent(3), 29);
  std::vector<double> silence(4, 0.0);
  gram.choose(store(cpu.memory, DType::f32, {1, 4}, silence), 1);
  for (std::int64_t i = 0; i < 4; ++i) EXPECT_EQ(gram.exponent(i), 0);
}

TEST(GramOverflowTest, CountsAndLeavesOutWhatCouldWrap) {
  CpuOps cpu;
  std::vector<double> x(1024 * 2, 1.0);
  x[3] = std::nan("");
  const Tensor tensor = store(cpu.memory, DType::f32, {1024, 2}, x);
  Gram gram(cpu, 2);
  // A chunk may hold 2^62 * 512 / 2048 = 2^60; channel 0 holds 2^9 * 2^(2 e).
  gram.exponents.view().as<std::int32_t>()[0] = 25;
  gram.add(tensor, 2048);
  EXPECT_EQ(gram.refused(), 2);  // NaN in (0, 1) and (1, 1) of the first chunk
  EXPECT_EQ(gram.sum(0, 0), std::int64_t{1} << 60);
  EXPECT_EQ(gram.sum(0, 1), std::int64_t{1} << 34);
  gram.exponents.view().as<std::int32_t>()[0] = 26;  // 2^61 reaches the limit
  gram.add(tensor, 2048);
  EXPECT_EQ(gram.refused(), 6);  // two of (0, 0) and two of NaN more
  EXPECT_EQ(gram.sum(0, 0), std::int64_t{1} << 60);
}

TEST(GramOverflowTest, RoundsToNearestEvenOverTheWholeRange) {
  CpuOps cpu;
  std::vector<double> x = {0x1p-1, 0x1.8p0, 0x1.4p1, -0x1p-1, 0x1.fffffep30, 0x1.000002p12};
  const Tensor tensor = store(cpu.memory, DType::f32, {1, 6}, x);
  Gram gram(cpu, 6);
  gram.exponents.view().as<std::int32_t>()[5] = 4;
  gram.add(tensor, 1);
  for (std::int64_t i = 0; i < 6; ++i) {
    for (std::int64_t j = i; j < 6; ++j) {
      const auto product = static_cast<float>(x[at(i)] * x[at(j)]);
      const double scaled = std::ldexp(product, gram.exponent(i) + gram.exponent(j));
      EXPECT_EQ(gram.sum(i, j), std::llrint(scaled)) << i << ", " << j;
    }
  }
}

TEST(GramDiagonalTest, UndoesTheScaleOfEachChannel) {
  CpuOps cpu;
  Gram gram(cpu, 3);
  std::ranges::copy(std::vector<std::int64_t>{5, 9, -1, 0, 6, 7, 0, 0, 64},
                    gram.sums.view().as<std::int64_t>());
  std::ranges::copy(std::vector<std::int32_t>{1, -2, 3}, gram.exponents.view().as<std::int32_t>());
  Tensor out = cpu.memory.allocate(DType::f64, {3});
  cpu.statistics.gram_diagonal(gram.view(), out.view());
  const double* diagonal = out.view().as<double>();
  EXPECT_EQ(std::vector<double>(diagonal, diagonal + 3), (std::vector<double>{1.25, 96.0, 1.0}));
}

TEST(StatisticsShapeTest, RefusesWhatDoesNotFit) {
  CpuOps cpu;
  const Tensor x = cpu.memory.allocate(DType::f32, {5, 3});
  const Tensor half = cpu.memory.allocate(DType::bf16, {5, 3});
  const Tensor wide = cpu.memory.allocate(DType::f32, {5, 4});
  Gram gram(cpu, 3);
  EXPECT_THROW(gram.choose(wide, 5), ShapeError);
  EXPECT_THROW(gram.choose(half, 5), ShapeError);
  EXPECT_THROW(gram.choose(x, 0), ShapeError);
  EXPECT_THROW(gram.choose(x, 5, -1), ShapeError);
  EXPECT_THROW(gram.choose(x, 5, 63), ShapeError);
  EXPECT_THROW(gram.add(wide, 5), ShapeError);
  EXPECT_THROW(gram.add(half, 5), ShapeError);
  EXPECT_THROW(gram.add(x, -1), ShapeError);
  GramView view = gram.view();
  view.overflow = gram.exponents.view();
  EXPECT_THROW(cpu.statistics.accumulate_gram(x.view(), 5, view), ShapeError);
  Tensor diagonal = cpu.memory.allocate(DType::f64, {3});
  EXPECT_THROW(cpu.statistics.gram_diagonal(view, diagonal.view()), ShapeError);
  EXPECT_THROW(cpu.statistics.gram_diagonal(gram.view(), diagonal.view().rows(0, 2)), ShapeError);
}

}  // namespace
}  // namespace quern::test
