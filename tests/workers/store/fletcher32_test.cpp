#include "workers/store/fletcher32.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace quern::hdf5::test {
namespace {

/// As libhdf5 documents it: words with the most significant byte first, folded after 360 of them.
std::uint32_t defined_fletcher32(const std::vector<std::byte>& bytes) {
  const auto byte = [&](std::size_t i) {
    return i < bytes.size() ? std::to_integer<std::uint32_t>(bytes[i]) : 0U;
  };
  const auto fold = [](std::uint32_t value) { return (value & 0xFFFFU) + (value >> 16U); };
  std::uint32_t sum = 0;
  std::uint32_t sum_of_sums = 0;
  for (std::size_t word = 0; word < (bytes.size() + 1) / 2; ++word) {
    sum += byte(2 * word) << 8U | byte(2 * word + 1);
    sum_of_sums += sum;
    if (word % 360 == 359) sum = fold(sum), sum_of_sums = fold(sum_of_sums);
  }
  return fold(fold(sum_of_sums)) << 16U | fold(fold(sum));
}

std::vector<std::byte> random_bytes(std::size_t size, int lowest, int highest) {
  std::mt19937 engine(static_cast<unsigned>(size));
  std::uniform_int_distribution<int> value(lowest, highest);
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(value(engine));
  return bytes;
}

TEST(Fletcher32, KnownTexts) {
  const auto of = [](std::string_view text) { return fletcher32(std::as_bytes(std::span(text))); };
  EXPECT_EQ(of(""), 0U);
  EXPECT_EQ(of("\x01"), 0x01000100U);
  EXPECT_EQ(of("abcd"), 0x2629c4c6U);  // the first word is in both sums
}

TEST(Fletcher32, IsAsDefined) {
  for (const std::size_t size :
       {1, 2, 3, 31, 63, 64, 65, 127, 719, 720, 721, 16383, 16384, 16385, 40000, 100001}) {
    for (const int lowest : {0, 255}) {  // all ones are the largest sums there are
      const std::vector<std::byte> bytes = random_bytes(size, lowest, 255);
      EXPECT_EQ(fletcher32(bytes), defined_fletcher32(bytes)) << size << " from " << lowest;
    }
    EXPECT_EQ(fletcher32(random_bytes(size, 0, 0)), 0U);
  }
}

TEST(Fletcher32, ZerosBehindCount) {
  for (const std::size_t size : {1, 2, 63, 64, 1001}) {
    for (const std::size_t zeros : {1, 2, 3, 1000}) {
      const std::vector<std::byte> bytes = random_bytes(size, 0, 255);
      std::vector<std::byte> longer = bytes;
      longer.resize(size + zeros);
      EXPECT_EQ(fletcher32(bytes, zeros), defined_fletcher32(longer)) << size << " and " << zeros;
    }
  }
}

}  // namespace
}  // namespace quern::hdf5::test
