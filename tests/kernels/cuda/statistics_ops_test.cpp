#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <random>

#include "kernels/core/error.h"
#include "tests/kernels/cuda/module_case.h"

namespace quern::test {
namespace {

/// H or F with its exponents and its counter, zeroed.
struct Sums {
  Sums(Backend& device, std::int64_t rows, std::int64_t columns)
      : backend(device),
        sums(device.memory().allocate(DType::i64, {rows, columns})),
        exponents(device.memory().allocate(DType::i32, {rows})),
        overflow(device.memory().allocate(DType::i64, {1 + rows})) {
    for (Tensor* part : {&sums, &exponents, &overflow}) device.memory().clear(part->view());
  }

  GramView gram() { return {sums.view(), exponents.view(), overflow.view().rows(0, 1)}; }
  FisherView fisher() { return {sums.view(), exponents.view(), overflow.view()}; }
  template <typename T>
  std::vector<T> host(const Tensor& tensor) {
    const HostTensor copy = backend.memory().to_host(tensor.view());
    return {copy.as<T>().begin(), copy.as<T>().end()};
  }
  std::vector<std::int64_t> values() { return host<std::int64_t>(sums); }
  std::vector<std::int32_t> powers() { return host<std::int32_t>(exponents); }
  std::int64_t refused() { return host<std::int64_t>(overflow)[0]; }

  Backend& backend;
  Tensor sums, exponents, overflow;
};

class CudaStatisticsTest : public CudaModuleCase {
 protected:
  /// Small integers: every sum of 512 products is exact, so both backends get equal bits.
  Twin integers_of(const Shape& shape, unsigned seed, int largest) {
    std::mt19937 engine(seed);
    std::uniform_int_distribution<int> integer(-largest, largest);
    std::vector<double> numbers(static_cast<std::size_t>(shape.elems()));
    for (double& number : numbers) number = integer(engine);
    return stored(type(), shape, numbers);
  }
};

struct Extents {
  std::int64_t tokens, channels;
};
const std::vector<Extents> kExtents = {{1, 1},     {31, 33},   {511, 32},   {512, 127},
                                       {513, 129}, {5000, 31}, {1025, 1100}};

TEST_P(CudaStatisticsTest, AddsExactProductsToTheSameBits) {
  for (const auto& [tokens, channels] : kExtents) {
    const Twin x = integers_of({tokens, channels}, 1, 60);
    Sums expected(cpu(), channels, channels);
    Sums actual(cuda(), channels, channels);
    cpu().statistics().choose_gram_exponents(x.cpu.view(), 4 * tokens, 2,
                                             expected.exponents.view());
    cuda().statistics().choose_gram_exponents(x.cuda.view(), 4 * tokens, 2,
                                              actual.exponents.view());
    ASSERT_EQ(actual.powers(), expected.powers()) << tokens << " x " << channels;
    for (int time = 0; time < 2; ++time) {
      cpu().statistics().accumulate_gram(x.cpu.view(), 4 * tokens, expected.gram());
      cuda().statistics().accumulate_gram(x.cuda.view(), 4 * tokens, actual.gram());
    }
    EXPECT_EQ(actual.values(), expected.values()) << tokens << " x " << channels;
    EXPECT_EQ(actual.refused(), 0);
  }
}

TEST_P(CudaStatisticsTest, AddsProductsToTheRoundingOfSums) {
  constexpr std::int64_t kTokens = 700;
  constexpr std::int64_t kChannels = 129;
  const Twin x = values({kTokens, kChannels}, 2);
  Sums expected(cpu(), kChannels, kChannels);
  Sums actual(cuda(), kChannels, kChannels);
  cpu().statistics().choose_gram_exponents(x.cpu.view(), kTokens, 2, expected.exponents.view());
  actual.exponents = to_cuda(expected.exponents);
  cpu().statistics().accumulate_gram(x.cpu.view(), kTokens, expected.gram());
  cuda().statistics().accumulate_gram(x.cuda.view(), kTokens, actual.gram());
  const std::vector<std::int64_t> right = expected.values();
  const std::vector<std::int64_t> got = actual.values();
  for (std::int64_t i = 0; i < kChannels; ++i) {
    const auto at = [&](std::int64_t a, std::int64_t b) {
      return static_cast<std::size_t>(a * kChannels + b);
    };
    for (std::int64_t j = i; j < kChannels; ++j) {
      const double size = std::sqrt(static_cast<double>(right[at(i, i)])) *
                          std::sqrt(static_cast<double>(right[at(j, j)]));
      const auto difference = static_cast<double>(got[at(i, j)] - right[at(i, j)]);
      // A chunk's sum has 512 roundings, and tensor cores may cut instead of rounding.
      ASSERT_LE(std::fabs(difference), 2 * 512 * sum_rounding() * size) << i << " " << j;
    }
    for (std::int64_t j = 0; j < i; ++j) ASSERT_EQ(got[at(i, j)], 0);
  }
}

TEST_P(CudaStatisticsTest, ReadsTheDiagonalToTheSameBits) {
  for (const std::int64_t channels : edge_sizes()) {
    const Twin x = values({64, channels}, 2);
    Sums expected(cpu(), channels, channels);
    cpu().statistics().choose_gram_exponents(x.cpu.view(), 64, 2, expected.exponents.view());
    cpu().statistics().accumulate_gram(x.cpu.view(), 64, expected.gram());
    Sums actual(cuda(), channels, channels);
    actual.sums = to_cuda(expected.sums);
    actual.exponents = to_cuda(expected.exponents);
    Tensor right = cpu().memory().allocate(DType::f64, {channels});
    Tensor found = cuda().memory().allocate(DType::f64, {channels});
    cpu().statistics().gram_diagonal(expected.gram(), right.view());
    cuda().statistics().gram_diagonal(actual.gram(), found.view());
    EXPECT_EQ(actual.host<double>(found), expected.host<double>(right));
  }
}

TEST_P(CudaStatisticsTest, CountsWhatDoesNotFit) {
  const Twin x = integers_of({512, 33}, 3, 60);  // one chunk, whatever their length
  Sums expected(cpu(), 33, 33);
  expected.exponents = cpu().memory().to_device([] {
    HostTensor large(DType::i32, {33});
    for (std::int32_t& exponent : large.as<std::int32_t>()) exponent = 22;
    return large;
  }());
  Sums actual(cuda(), 33, 33);
  actual.exponents = to_cuda(expected.exponents);
  cpu().statistics().accumulate_gram(x.cpu.view(), 1 << 20, expected.gram());
  cuda().statistics().accumulate_gram(x.cuda.view(), 1 << 20, actual.gram());
  EXPECT_GT(expected.refused(), 0);
  EXPECT_EQ(actual.refused(), expected.refused());
  EXPECT_EQ(actual.values(), expected.values());
}

TEST_P(CudaStatisticsTest, AddsExactSquaresToTheSameBits) {
  for (const auto& [length, outputs, inputs] :
       std::vector<std::array<std::int64_t, 3>>{{1, 1, 1}, {31, 33, 127}, {64, 129, 32}}) {
    for (const std::int64_t sequences : {1, 3, 9}) {
      const Twin x = integers_of({length * sequences, inputs}, 4, 20);
      const Twin dy = integers_of({length * sequences, outputs}, 5, 20);
      const SequenceCut cut{length, 4 * sequences};
      Sums expected(cpu(), outputs, inputs);
      Sums actual(cuda(), outputs, inputs);
      cpu().statistics().choose_fisher_exponents(x.cpu.view(), dy.cpu.view(), cut, 2,
                                                 expected.exponents.view());
      cuda().statistics().choose_fisher_exponents(x.cuda.view(), dy.cuda.view(), cut, 2,
                                                  actual.exponents.view());
      ASSERT_EQ(actual.powers(), expected.powers());
      cpu().statistics().accumulate_fisher(x.cpu.view(), dy.cpu.view(), cut, expected.fisher());
      cuda().statistics().accumulate_fisher(x.cuda.view(), dy.cuda.view(), cut, actual.fisher());
      EXPECT_EQ(actual.values(), expected.values());
      EXPECT_EQ(actual.refused(), expected.refused());
      Twin f = poisoned(DType::f32, {outputs, inputs});
      cpu().statistics().fisher_values(expected.fisher(), f.cpu.view());
      cuda().statistics().fisher_values(actual.fisher(), f.cuda.view());
      expect_close(f, {0.0, 0.0});
    }
  }
}

TEST_P(CudaStatisticsTest, RefusesGradientsThatAreNotNumbers) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const Twin x = integers_of({4, 3}, 6, 5);
  const Twin dy = stored(type(), {4, 2}, {1, nan, 2, 1, 1, 2, 1, 1});
  Sums expected(cpu(), 2, 3);
  Sums actual(cuda(), 2, 3);
  const SequenceCut cut{2, 2};
  cpu().statistics().accumulate_fisher(x.cpu.view(), dy.cpu.view(), cut, expected.fisher());
  cuda().statistics().accumulate_fisher(x.cuda.view(), dy.cuda.view(), cut, actual.fisher());
  EXPECT_EQ(expected.refused(), 3);
  EXPECT_EQ(actual.refused(), 3);
  EXPECT_EQ(actual.values(), expected.values());
}

TEST_P(CudaStatisticsTest, CountsBurstsAsTheCpuDoes) {
  const SequenceCut cut{8, 64};
  const Twin x = integers_of({48, 300}, 4, 20);
  const Twin dy = integers_of({48, 70}, 5, 20);
  Sums expected(cpu(), 70, 300);
  expected.exponents = cpu().memory().to_device([] {
    HostTensor powers(DType::i32, {70});
    for (std::int32_t n = 0; n < 70; ++n) powers.as<std::int32_t>()[static_cast<unsigned>(n)] = n;
    return powers;
  }());
  Sums actual(cuda(), 70, 300);
  actual.exponents = to_cuda(expected.exponents);
  cpu().statistics().accumulate_fisher(x.cpu.view(), dy.cpu.view(), cut, expected.fisher());
  cuda().statistics().accumulate_fisher(x.cuda.view(), dy.cuda.view(), cut, actual.fisher());
  const std::vector<std::int64_t> bursts = expected.host<std::int64_t>(expected.overflow);
  EXPECT_GT(bursts[0], 0) << "rows whose exponents are beyond all headroom";
  EXPECT_EQ(bursts[1], 0) << "rows whose exponents leave room";
  EXPECT_GT(*std::max_element(bursts.begin() + 1, bursts.end()), 0);
  EXPECT_EQ(actual.host<std::int64_t>(actual.overflow), bursts);
  // Rows with refused entries are not used, and may have wrapped.
  const std::vector<std::int64_t> sums = expected.values();
  const std::vector<std::int64_t> found = actual.values();
  EXPECT_TRUE(std::equal(sums.begin(), sums.begin() + std::int64_t{36} * 300, found.begin()));
}

TEST_P(CudaStatisticsTest, ScalesByTheGradient) {
  for (const std::int64_t size : edge_sizes()) {
    const Twin x = values({33, size}, 7);
    const Twin dy = values({33, 2 * size}, 8);
    Twin out = poisoned({33, size});
    cpu().statistics().scale_by_gradient(x.cpu.view(), dy.cpu.view(), out.cpu.view());
    cuda().statistics().scale_by_gradient(x.cuda.view(), dy.cuda.view(), out.cuda.view());
    // The factor, a mean in double, and the product are rounded, the result once more to its type.
    const double mean = std::sqrt(2.0 * static_cast<double>(size)) * 0x1p-52;
    expect_close(out, {mean + 2 * sum_rounding() + rounding(), sum_rounding()});
  }
}

TEST_P(CudaStatisticsTest, RefusesAnotherActivationType) {
  const DType other = type() == DType::f64 ? DType::f32 : DType::f64;
  const Tensor x = cuda().memory().allocate(other, {4, 4});
  Sums sums(cuda(), 4, 4);
  EXPECT_THROW(cuda().statistics().accumulate_gram(x.view(), 4, sums.gram()), ShapeError);
}

INSTANTIATE_TEST_SUITE_P(Types, CudaStatisticsTest, testing::ValuesIn(activation_types()),
                         type_name);

}  // namespace
}  // namespace quern::test
