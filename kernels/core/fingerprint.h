#pragma once

#include <cstdint>
#include <span>

namespace quern {

/// What element `index` with these bits adds to a fingerprint: the finaliser of SplitMix64 (Steele,
/// Lea and Flood 2014) over place and bits.
constexpr std::uint64_t fingerprint_share(std::uint64_t index, std::uint32_t bits) {
  std::uint64_t z = index * 0x9E3779B97F4A7C15U + bits;
  z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27U)) * 0x94D049BB133111EBU;
  return z ^ (z >> 31U);
}

/// Sum of all shares modulo 2^64. Integers add up in any order, so that devices and threads may
/// share the work; tells apart values that differ by accident, not by design.
/// first: place of values[0] in a larger whole, whose fingerprint is the sum of its parts'.
std::uint64_t fingerprint(std::span<const float> values, std::uint64_t first = 0);

}  // namespace quern
