#include "kernels/core/fingerprint.h"

#include <gtest/gtest.h>

#include <bit>
#include <vector>

namespace quern::test {
namespace {

std::vector<float> sample(std::size_t size) {
  std::vector<float> values(size);
  for (std::size_t i = 0; i < size; ++i) values[i] = 1.0F / static_cast<float>(i + 1) - 0.25F;
  return values;
}

TEST(Fingerprint, IsTheSumOfItsShares) {
  for (const std::size_t size : {0, 1, 7, 8, 31, 32, 33, 1001}) {
    const std::vector<float> values = sample(size);
    for (const std::uint64_t first : {std::uint64_t{0}, std::uint64_t{1} << 33U}) {
      std::uint64_t sum = 0;
      for (std::size_t i = 0; i < size; ++i) {
        sum += fingerprint_share(first + i, std::bit_cast<std::uint32_t>(values[i]));
      }
      EXPECT_EQ(fingerprint(values, first), sum) << size << " from " << first;
    }
  }
}

/// Computed apart from this program: hashes of finished runs must stay valid.
TEST(Fingerprint, StaysWhatItIs) {
  const std::vector<float> values = {1.0F, -2.0F, 0.5F};
  EXPECT_EQ(fingerprint(values), 0x335CE06AE4D418A7U);
}

TEST(Fingerprint, TellsPlacesApart) {
  EXPECT_NE(fingerprint(std::vector<float>{1.0F, 2.0F}),
            fingerprint(std::vector<float>{2.0F, 1.0F}));
}

}  // namespace
}  // namespace quern::test
