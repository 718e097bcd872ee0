#include "pipeline/synthesis/synthetic_values.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "kernels/core/float16.h"
#include "kernels/core/float8.h"

namespace quern::test {
namespace {

std::vector<float> values(std::uint64_t key, std::uint64_t begin, std::size_t count,
                          double mean = 0.0, double deviation = 1.0) {
  std::vector<float> out(count);
  SyntheticValues(DType::f32, mean, deviation)
      .fill(key, begin, std::as_writable_bytes(std::span(out)));
  return out;
}

/// SplitMix64 with seed 0 gives these two numbers first (as published with the generator).
TEST(SyntheticValues, AreQuantilesChosenByThePublishedGenerator) {
  constexpr std::array<std::uint64_t, 2> kFirst = {0xE220A8397B1DCDAFU, 0x6E789E6AA1B965F4U};
  const std::vector<float> found = values(0, 0, 8);
  for (std::size_t i = 0; i < 8; ++i) {
    const std::uint64_t index = (kFirst[i / 4] >> (16 * (i % 4))) & 0xFFFFU;
    const double probability =
        0.5 * std::erfc(-static_cast<double>(found[i]) / std::numbers::sqrt2);
    EXPECT_NEAR(probability * 65536.0, static_cast<double>(index) + 0.5, 0.02) << i;
  }
}

TEST(SyntheticValues, DependOnKeyAndIndexAlone) {
  const std::vector<float> whole = values(7, 0, 1003);
  for (const std::size_t begin : {4U, 128U, 996U}) {
    const std::vector<float> part = values(7, begin, 1003 - begin);
    EXPECT_TRUE(std::ranges::equal(part, std::span(whole).subspan(begin)));
  }
  EXPECT_NE(values(8, 0, 1003), whole);
}

TEST(SyntheticValues, KeysFollowSeedAndName) {
  const std::uint64_t key = synthetic_key(1, "a.weight");
  EXPECT_EQ(synthetic_key(1, "a.weight"), key);
  EXPECT_NE(synthetic_key(2, "a.weight"), key);
  EXPECT_NE(synthetic_key(1, "b.weight"), key);
  EXPECT_NE(synthetic_key(1, "a.weigh"), key);
}

/// 400,000 draws: the standard error of mean is 0.0016 deviations, of variance 0.0022, of the
/// fourth moment 0.016.
TEST(SyntheticValues, AreNormal) {
  const std::vector<float> found = values(synthetic_key(0, "x"), 0, 400'000, 3.0, 0.5);
  double mean = 0;
  double second = 0;
  double fourth = 0;
  for (const float value : found) {
    const double z = (static_cast<double>(value) - 3.0) / 0.5;
    mean += z / 4e5;
    second += z * z / 4e5;
    fourth += z * z * z * z / 4e5;
  }
  EXPECT_NEAR(mean, 0.0, 0.008);
  EXPECT_NEAR(second, 1.0, 0.012);
  EXPECT_NEAR(fourth, 3.0, 0.1);
  EXPECT_LE(std::ranges::max(found), 3.0 + 0.5 * farthest_deviation() + 1e-6);
  EXPECT_NEAR(farthest_deviation(), 4.3, 0.15);
}

TEST(SyntheticValues, AreTheSameInEveryTypeButForRounding) {
  const std::vector<float> exact = values(5, 0, 4096, 0.0, 0.02);
  std::vector<std::uint16_t> half(exact.size());
  SyntheticValues(DType::bf16, 0.0, 0.02).fill(5, 0, std::as_writable_bytes(std::span(half)));
  for (std::size_t i = 0; i < exact.size(); ++i) ASSERT_EQ(half[i], float_to_bf16(exact[i]));
  SyntheticValues(DType::f16, 0.0, 0.02).fill(5, 0, std::as_writable_bytes(std::span(half)));
  for (std::size_t i = 0; i < exact.size(); ++i) ASSERT_EQ(half[i], float_to_f16(exact[i]));
  std::vector<std::uint8_t> byte(exact.size());
  SyntheticValues(DType::f8_e4m3, 0.0, 0.02).fill(5, 0, std::as_writable_bytes(std::span(byte)));
  for (std::size_t i = 0; i < exact.size(); ++i) ASSERT_EQ(byte[i], float_to_e4m3(exact[i]));
}

}  // namespace
}  // namespace quern::test
