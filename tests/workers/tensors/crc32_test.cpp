#include "workers/tensors/crc32.h"

#include <gtest/gtest.h>

#include <string>

namespace quern::test {
namespace {

std::uint32_t of(const std::string& text) {
  return crc32(std::as_bytes(std::span(text)));
}

/// Bit by bit, by the definition.
std::uint32_t slow(const std::string& text) {
  std::uint32_t rest = 0xFFFFFFFF;
  for (const char byte : text) {
    for (int bit = 0; bit < 8; ++bit) {
      const bool carry = ((rest ^ (static_cast<unsigned char>(byte) >> bit)) & 1U) != 0;
      rest = rest >> 1 ^ (carry ? 0xEDB88320U : 0U);
    }
  }
  return ~rest;
}

TEST(Crc32, KnownValues) {
  EXPECT_EQ(of(""), 0U);
  EXPECT_EQ(of("123456789"), 0xCBF43926U) << "the check value of the catalogue";
  EXPECT_EQ(of("The quick brown fox jumps over the lazy dog"), 0x414FA339U);
}

TEST(Crc32, LengthsAroundTheWordAreTheDefinition) {
  std::string text;
  for (int i = 0; i < 70; ++i) {
    EXPECT_EQ(of(text), slow(text)) << i;
    text += static_cast<char>(i * 37 + 200);
  }
}

}  // namespace
}  // namespace quern::test
