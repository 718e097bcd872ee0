#include "kernels/core/fingerprint.h"

#include <bit>

namespace quern {

// Products of 64 bits, which vectors have only at the highest level.
[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] std::uint64_t fingerprint(
    std::span<const float> values, std::uint64_t first) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    sum += fingerprint_share(first + i, std::bit_cast<std::uint32_t>(values[i]));
  }
  return sum;
}

}  // namespace quern
