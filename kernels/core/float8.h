#pragma once

#include <bit>
#include <cstdint>
#include <limits>

namespace quern {

/// Scalar conversions between float32 and E4M3 (OCP 8-bit floating point, the finite variant): four
/// exponent bits of bias 7, largest value 448, NaN is 0x7F or 0xFF, no infinity.

inline float e4m3_to_float(std::uint8_t bits) noexcept {
  const std::uint32_t magnitude = bits & 0x7FU;
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x80U) << 24;
  if (magnitude == 0x7FU) return std::numeric_limits<float>::quiet_NaN();
  // 2^120 moves the exponent bias to the float one and normalises subnormals.
  const float scaled = std::bit_cast<float>(magnitude << 20) * 0x1p120F;
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(scaled));
}

/// Round to nearest even; beyond 448 the nearest is 448. NaN kept.
inline std::uint8_t float_to_e4m3(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint8_t>((bits >> 24) & 0x80U);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  std::uint32_t rounded = 0;
  if (magnitude > 0x7F800000U) {
    return static_cast<std::uint8_t>(sign | 0x7FU);
  } else if (magnitude >= 0x43E00000U) {
    rounded = 0x7EU;
  } else if (magnitude < 0x3C800000U) {  // subnormal: the sum's last bit is worth 2^-9
    rounded = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0x1p14F) - 0x46800000U;
  } else {
    rounded = (magnitude + 0x7FFFFU + ((magnitude >> 20) & 1U) - 0x3C000000U) >> 20;
  }
  return static_cast<std::uint8_t>(sign | rounded);
}

}  // namespace quern
