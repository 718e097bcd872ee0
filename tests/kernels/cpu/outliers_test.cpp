#include "kernels/cpu/outliers.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "kernels/core/error.h"
#include "kernels/cpu/codebook_table.h"
#include "tests/kernels/cpu/codebook_case.h"

namespace quern::test {
namespace {

class Outliers : public testing::Test {
 protected:
  std::vector<std::uint8_t> chosen(const CodebookCase& module, const OutlierRule& rule) {
    Tensor mask = memory_.allocate(DType::u8, module.weight.shape());
    solver_->choose_outliers(module.weight.view(), module.fisher.view(), rule, mask.view());
    const auto* begin = mask.view().as<std::uint8_t>();
    return {begin, begin + mask.view().elems()};
  }

  CpuMemory memory_;
  std::unique_ptr<CodebookSolver> solver_ = make_cpu_codebook_solver(memory_, 1);
};

/// numpy.quantile by sorting.
double quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  const double place = q * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (values[above] - values[below]) * (place - static_cast<double>(below));
}

TEST_F(Outliers, MostSensitiveWithTiesToTheLowerIndex) {
  for (const std::int64_t columns : {1, 31, 129, 70001}) {
    CodebookCase module = random_case(memory_, DType::f32, 3, columns, 5);
    auto* f = module.fisher.view().as<float>();
    for (std::int64_t i = 0; i < 3 * columns; ++i) {
      if (i % 3 != 0) f[i] = static_cast<float>(i % 4) * 0.001F;
    }
    std::vector<std::size_t> order(static_cast<std::size_t>(3 * columns));
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return f[a] > f[b]; });
    for (const std::size_t count :
         {std::size_t{0}, std::size_t{1}, order.size() / 3, order.size() / 2, order.size()}) {
      std::vector<std::uint8_t> expected(order.size());
      for (std::size_t i = 0; i < count; ++i) expected[order[i]] = 1;
      EXPECT_EQ(chosen(module, {static_cast<std::int64_t>(count), std::nullopt}), expected);
    }
  }
}

TEST_F(Outliers, GoldenQuartiles) {
  // numpy.quantile([1, 2, 4, 8, 16, 32], [.25, .75]) = [2.5, 14]
  std::vector<double> values{32, 1, 8, 2, 16, 4};
  const Tensor weight = store(memory_, DType::bf16, {2, 3}, values);
  const Quartiles quartiles = Quartiles::of(weight.view(), 1);
  EXPECT_EQ(quartiles.low, 2.5);
  EXPECT_EQ(quartiles.high, 14.0);
}

TEST_F(Outliers, WeightsBeyondTheQuartileRange) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::f64}) {
    for (const std::int64_t columns : {2, 33, 1001}) {
      const CodebookCase module = random_case(memory_, dtype, 5, columns, 9);
      std::vector<double> w;
      for (const double value : module.w.values) w.push_back(static_cast<float>(value));
      const double low = quantile(w, 0.25);
      const double high = quantile(w, 0.75);
      const double range = 1.3;
      const auto mask = chosen(module, {0, range});
      for (std::size_t i = 0; i < w.size(); ++i) {
        const double beyond = std::max(low - w[i], w[i] - high) / (high - low);
        if (std::fabs(beyond - range) < 1e-9) continue;
        ASSERT_EQ(mask[i], beyond > range ? 1 : 0) << i;
      }
    }
  }
}

TEST_F(Outliers, BothRulesTogether) {
  const CodebookCase module = random_case(memory_, DType::bf16, 8, 200, 3);
  const auto sensitive = chosen(module, {20, std::nullopt});
  const auto large = chosen(module, {0, 1.5});
  auto both = chosen(module, {20, 1.5});
  for (std::size_t i = 0; i < both.size(); ++i) EXPECT_EQ(both[i], sensitive[i] | large[i]);
}

TEST_F(Outliers, CountedRangesSayExactlyWhatARuleKeeps) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const CodebookCase module = random_case(memory_, dtype, 16, 500, 21);
    Tensor counts = memory_.allocate(DType::i64, {CodebookSolver::range_bins});
    memory_.clear(counts.view());
    solver_->count_ranges(module.weight.view(), counts.view());
    const auto* bins = counts.view().as<std::int64_t>();
    for (const std::int64_t bin : {0, 1, 2, 1000, 4095, 4096, 4097, 6144, 9000, 20000}) {
      const double range = static_cast<double>(bin) * CodebookSolver::range_step;
      const auto mask = chosen(module, {0, range});
      EXPECT_EQ(std::accumulate(bins + bin, bins + CodebookSolver::range_bins, std::int64_t{0}),
                std::count(mask.begin(), mask.end(), 1))
          << bin;
    }
    solver_->count_ranges(module.weight.view(), counts.view());
    EXPECT_EQ(std::accumulate(bins, bins + CodebookSolver::range_bins, std::int64_t{0}) % 2, 0);
  }
}

TEST_F(Outliers, WeightsOfOneValueHaveNoRange) {
  std::vector<double> values(100, 0.5);
  values[7] = 0.75;
  const Tensor weight = store(memory_, DType::bf16, {10, 10}, values);
  Tensor counts = memory_.allocate(DType::i64, {CodebookSolver::range_bins});
  memory_.clear(counts.view());
  solver_->count_ranges(weight.view(), counts.view());
  const auto* bins = counts.view().as<std::int64_t>();
  EXPECT_EQ(bins[CodebookSolver::range_bins - 1], 1);
  EXPECT_EQ(std::accumulate(bins, bins + CodebookSolver::range_bins, std::int64_t{0}), 1);
}

TEST_F(Outliers, InfiniteWeightsAreRefusedWithTheirPlace) {
  CodebookCase module = random_case(memory_, DType::f32, 4, 10, 1);
  module.weight.view().as<float>()[23] = std::numeric_limits<float>::quiet_NaN();
  try {
    chosen(module, {0, 1.0});
    FAIL() << "expected an InputError";
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find("row 2, column 3"), std::string::npos) << error.what();
  }
}

/// A random finite value of the type within 2^-60 .. 2^60 (f16: its whole range).
float random_value(std::mt19937& engine, DType dtype) {
  const auto bits = static_cast<std::uint16_t>(engine());
  if (dtype == DType::f16) {
    const float value = f16_to_float(bits);
    return std::isfinite(value) ? value : 1.0F;
  }
  const float value = bf16_to_float(bits);
  const bool usual = std::fabs(value) < 0x1p60F && std::fabs(value) > 0x1p-60F;
  return usual ? value : 0.0F;
}

TEST(OutlierValue, ExactForShortWeightsUpToTheStatedRatio) {
  std::mt19937 engine(11);
  for (const DType dtype : {DType::bf16, DType::f16}) {
    const float ratio = dtype == DType::bf16 ? 0x1p-16F : 0x1p-13F;
    for (int i = 0; i < 2'000'000; ++i) {
      const float w = random_value(engine, dtype);
      float c = 0.0F;
      std::uint8_t place = 0;
      const double centroid = static_cast<double>(random_value(engine, DType::bf16));
      finish_table(std::array{centroid}, {DType::f32, 1, std::fabs(w)}, &c, &place);
      const std::optional<float> value = outlier_value(w, c, true);
      if (value) {
        ASSERT_EQ(c + *value, w);
      } else {
        ASSERT_LT(std::fabs(w), std::fabs(c) * ratio) << w << " " << c;
      }
    }
  }
}

TEST(OutlierValue, NearestForFloatWeights) {
  EXPECT_FALSE(outlier_value(0x1p-30F, 1.0F, true));
  EXPECT_EQ(outlier_value(0x1p-30F, 1.0F, false), -1.0F);
}

TEST(CodebookTable, TheCentroidNearestZeroIsShortEvenIfAnotherTakesItsPlace) {
  // 0.0100327 rounds up to 0.010071, beyond its neighbour 0.01004, which is nearest then.
  std::array<float, 4> table;
  std::array<std::uint8_t, 3> places;
  const std::vector<double> values{0.5, 0.010043, 0.01004};
  finish_table(values, {DType::f32, 4, 0.0F}, table.data(), places.data());
  const float nearest = table[0];
  EXPECT_EQ(bf16_to_float(float_to_bf16(nearest)), nearest);
  EXPECT_TRUE(std::is_sorted(table.begin(), table.end()));
  EXPECT_EQ(table[3], 0.5F);
  EXPECT_EQ(table[places[0]], 0.5F);
}

TEST(CodebookTable, HalfTablesHoldShortValuesAlsoAtTheEndsOfTheRange) {
  for (const double value : {3e-8, 1.7e-6, -5.123e-5, 0.123456, 65504.0, -70000.0, 1e30}) {
    std::array<float, 4> table;
    std::uint8_t place = 9;
    finish_table(std::array{value}, {DType::f16, 4, 0.0F}, table.data(), &place);
    EXPECT_EQ(place, 0);
    EXPECT_EQ(f16_to_float(float_to_f16(table[0])), table[0]) << value;
    EXPECT_EQ(bf16_to_float(float_to_bf16(table[0])), table[0]) << value;
    const double limited = std::clamp(value, -65504.0, 65504.0);
    EXPECT_NEAR(static_cast<double>(table[0]), limited, 0x1p-8 * std::fabs(limited) + 0x1p-25);
    EXPECT_EQ(table[3], table[0]);
  }
}

}  // namespace
}  // namespace quern::test
