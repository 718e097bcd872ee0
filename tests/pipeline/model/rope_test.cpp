#include <gtest/gtest.h>

#include <cmath>

#include "pipeline/model/geometry.h"

namespace quern::test {
namespace {

/// The angle of pair i at position 1, which is its frequency.
double frequency(const RopeSpec& rope, std::int64_t head_dim, std::int64_t i) {
  const std::vector<float> table = rope_table(rope, 2, head_dim);
  const auto row = static_cast<std::size_t>(head_dim + i);
  return std::atan2(static_cast<double>(table[row + static_cast<std::size_t>(head_dim / 2)]),
                    static_cast<double>(table[row]));
}

void expect_frequency(const RopeSpec& rope, std::int64_t head_dim, std::int64_t i,
                      double expected) {
  EXPECT_NEAR(frequency(rope, head_dim, i), expected, 2e-7 * expected) << "pair " << i;
}

TEST(Rope, StandardFrequenciesArePowersOfTheta) {
  const RopeSpec rope{.theta = 10000.0};
  expect_frequency(rope, 8, 0, 1.0);
  expect_frequency(rope, 8, 1, 0.1);
  expect_frequency(rope, 8, 2, 0.01);
  expect_frequency(rope, 8, 3, 0.001);
}

TEST(Rope, LinearDividesByItsFactor) {
  const RopeSpec rope{.type = RopeSpec::Type::linear, .theta = 10000.0, .factor = 4.0};
  expect_frequency(rope, 8, 0, 0.25);
  expect_frequency(rope, 8, 1, 0.025);
  expect_frequency(rope, 8, 3, 0.00025);
}

/// Llama 3.1 8B: theta 500000, heads of 128. Wavelengths below 8192 / 4 are kept (pair 28: 1956),
/// above 8192 they are eight times as long (pair 35: 8219), in between (pair 29: 2402; pair 32:
/// 4443; pair 34: 6695) the two are mixed with (8192 / wavelength - 1) / 3.
TEST(Rope, Llama3FrequenciesAreThoseOfItsRecipe) {
  const RopeSpec rope{.type = RopeSpec::Type::llama3,
                      .theta = 500000.0,
                      .factor = 8.0,
                      .low_freq_factor = 1.0,
                      .high_freq_factor = 4.0,
                      .original_positions = 8192};
  expect_frequency(rope, 128, 0, 1.0);
  expect_frequency(rope, 128, 1, 0.8146172338565447);
  expect_frequency(rope, 128, 28, 0.003211445994752591);
  expect_frequency(rope, 128, 29, 0.002166570763503359);
  expect_frequency(rope, 128, 32, 0.0005248461609929547);
  expect_frequency(rope, 128, 34, 0.0001785078127679964);
  expect_frequency(rope, 128, 35, 9.556212353964683e-05);
  expect_frequency(rope, 128, 63, 3.068925988914511e-07);
}

TEST(Rope, TableHoldsCosThenSinOfEveryPosition) {
  const std::vector<float> table = rope_table({.theta = 100.0}, 3, 4);
  ASSERT_EQ(table.size(), 12U);
  for (std::size_t position = 0; position < 3; ++position) {
    const auto angle = static_cast<double>(position);
    EXPECT_NEAR(table[position * 4], std::cos(angle), 1e-7);
    EXPECT_NEAR(table[position * 4 + 1], std::cos(0.1 * angle), 1e-7);
    EXPECT_NEAR(table[position * 4 + 2], std::sin(angle), 1e-7);
    EXPECT_NEAR(table[position * 4 + 3], std::sin(0.1 * angle), 1e-7);
  }
}

}  // namespace
}  // namespace quern::test
