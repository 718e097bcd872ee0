#include "kernels/core/float16.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace quern::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// A 16-bit float with one sign bit, from its definition.
struct Format {
  int mantissa_bits;
  int bias;
  float (*widen)(std::uint16_t);
  std::uint16_t (*narrow)(float);

  std::uint16_t infinity() const {
    return static_cast<std::uint16_t>(0x7FFFU >> mantissa_bits << mantissa_bits);
  }
  /// The value of a finite pattern.
  double value(std::uint16_t bits) const {
    const int exponent = (bits & 0x7FFF) >> mantissa_bits;
    const int mantissa = bits & ((1 << mantissa_bits) - 1);
    const int implicit = exponent == 0 ? 0 : 1 << mantissa_bits;
    const double magnitude = std::ldexp(static_cast<double>(implicit + mantissa),
                                        std::max(exponent, 1) - bias - mantissa_bits);
    return (bits & 0x8000) != 0 ? -magnitude : magnitude;
  }
};

class Float16Test : public testing::TestWithParam<Format> {};

TEST_P(Float16Test, WidensAllPatternsExactly) {
  const Format& format = GetParam();
  for (std::uint32_t pattern = 0; pattern < 0x10000; ++pattern) {
    const auto bits = static_cast<std::uint16_t>(pattern);
    const float widened = format.widen(bits);
    ASSERT_EQ(std::signbit(widened), (bits & 0x8000) != 0) << pattern;
    const std::uint32_t magnitude = bits & 0x7FFFU;
    if (magnitude > format.infinity()) {
      ASSERT_TRUE(std::isnan(widened)) << pattern;
      ASSERT_TRUE(std::isnan(format.widen(format.narrow(widened)))) << pattern;
      continue;
    }
    if (magnitude == format.infinity()) {
      ASSERT_EQ(std::fabs(widened), kInfinity) << pattern;
    } else {
      ASSERT_EQ(static_cast<double>(widened), format.value(bits)) << pattern;
    }
    ASSERT_EQ(format.narrow(widened), bits) << pattern;
  }
}

TEST_P(Float16Test, RoundsToNearestEvenBetweenAllNeighbours) {
  const Format& format = GetParam();
  for (std::uint16_t bits = 0; bits < format.infinity(); ++bits) {
    const auto next = static_cast<std::uint16_t>(bits + 1);
    // Past the largest finite value the neighbour is the value its pattern would have, 2^(max+1).
    const double middle = (format.value(bits) + format.value(next)) / 2.0;
    const auto tie = static_cast<float>(middle);
    ASSERT_EQ(static_cast<double>(tie), middle) << bits;
    const std::uint16_t even = bits % 2 == 0 ? bits : next;
    ASSERT_EQ(format.narrow(tie), even) << bits;
    ASSERT_EQ(format.narrow(std::nextafter(tie, 0.0F)), bits) << bits;
    ASSERT_EQ(format.narrow(std::nextafter(tie, kInfinity)), next) << bits;
    ASSERT_EQ(format.narrow(-tie), even | 0x8000) << bits;
  }
}

TEST_P(Float16Test, KeepsExtremes) {
  const Format& format = GetParam();
  EXPECT_EQ(format.narrow(kInfinity), format.infinity());
  EXPECT_EQ(format.narrow(-kInfinity), format.infinity() | 0x8000);
  EXPECT_EQ(format.narrow(std::numeric_limits<float>::max()), format.infinity());
  EXPECT_EQ(format.narrow(0.0F), 0);
  EXPECT_EQ(format.narrow(-0.0F), 0x8000);
  for (const std::uint32_t nan : {0x7F800001U, 0x7FC00000U, 0xFF800001U, 0x7FFFFFFFU}) {
    const std::uint16_t narrowed = format.narrow(std::bit_cast<float>(nan));
    EXPECT_GT(narrowed & 0x7FFF, format.infinity()) << nan;
    EXPECT_EQ(narrowed >> 15, nan >> 31) << nan;
  }
}

TEST(Float16LimitsTest, SmallestHalvesAndUnderflow) {
  EXPECT_EQ(float_to_f16(0x1p-24F), 1);
  EXPECT_EQ(float_to_f16(0x1p-25F), 0);
  EXPECT_EQ(float_to_f16(0x1.000002p-25F), 1);
  EXPECT_EQ(float_to_f16(std::numeric_limits<float>::denorm_min()), 0);
  EXPECT_EQ(float_to_f16(65519.996F), 0x7BFF);
  EXPECT_EQ(float_to_f16(65520.0F), 0x7C00);
}

INSTANTIATE_TEST_SUITE_P(Half, Float16Test,
                         testing::Values(Format{10, 15, f16_to_float, float_to_f16}));
INSTANTIATE_TEST_SUITE_P(Brain, Float16Test,
                         testing::Values(Format{7, 127, bf16_to_float, float_to_bf16}));

}  // namespace
}  // namespace quern::test
