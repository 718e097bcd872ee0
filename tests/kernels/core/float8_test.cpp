#include "kernels/core/float8.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace quern::test {
namespace {

/// The value of a code, from the format's definition.
double defined_value(unsigned code) {
  const double sign = code >= 128 ? -1.0 : 1.0;
  const int exponent = static_cast<int>(code >> 3) % 16;
  const unsigned mantissa = code % 8;
  if (exponent == 15 && mantissa == 7) return std::nan("");
  if (exponent == 0) return sign * std::ldexp(mantissa, -9);
  return sign * std::ldexp(8 + mantissa, exponent - 10);
}

TEST(Float8, EveryCodeHasItsValueAndComesBack) {
  for (unsigned code = 0; code < 256; ++code) {
    const float value = e4m3_to_float(static_cast<std::uint8_t>(code));
    if (code % 128 == 127) {
      EXPECT_TRUE(std::isnan(value));
      EXPECT_EQ(float_to_e4m3(value) % 128, 127);
    } else {
      EXPECT_EQ(static_cast<double>(value), defined_value(code));
      EXPECT_EQ(float_to_e4m3(value), code);
    }
  }
}

/// The nearest code by trying all; of two at the same distance the even one.
unsigned nearest_code(float value) {
  const unsigned sign = std::signbit(value) ? 128 : 0;
  unsigned best = sign;
  for (unsigned code = sign; code < sign + 127; ++code) {
    const double distance = std::abs(defined_value(code) - static_cast<double>(value));
    const double least = std::abs(defined_value(best) - static_cast<double>(value));
    if (distance < least || (distance == least && code % 2 == 0)) best = code;
  }
  return best;
}

TEST(Float8, RoundsToTheNearestAndTiesToEven) {
  for (unsigned code = 0; code < 126; ++code) {
    const auto middle = static_cast<float>((defined_value(code) + defined_value(code + 1)) / 2.0);
    for (const float value : {middle, std::nextafter(middle, 0.0F), std::nextafter(middle, 1e9F)}) {
      EXPECT_EQ(float_to_e4m3(value), nearest_code(value)) << value;
      EXPECT_EQ(float_to_e4m3(-value), nearest_code(-value)) << -value;
    }
  }
  std::mt19937 engine(3);
  std::uniform_real_distribution<float> exponent(-12.0F, 10.0F);
  for (int i = 0; i < 2000; ++i) {
    const float value = std::exp2(exponent(engine));
    EXPECT_EQ(float_to_e4m3(value), nearest_code(value)) << value;
  }
}

TEST(Float8, StaysFiniteBeyondTheLargest) {
  for (const float value : {449.0F, 464.0F, 465.0F, 1e30F, HUGE_VALF}) {
    EXPECT_EQ(float_to_e4m3(value), 0x7E);
    EXPECT_EQ(float_to_e4m3(-value), 0xFE);
  }
}

}  // namespace
}  // namespace quern::test
