#include "workers/tensors/crc32.h"

#include <array>
#include <bit>
#include <cstring>

namespace quern {
namespace {

static_assert(std::endian::native == std::endian::little, "words are taken as they lie");

using Table = std::array<std::uint32_t, 256>;

/// Table i: the remainder of a byte with i zero bytes behind it.
constexpr std::array<Table, 8> make_tables() {
  std::array<Table, 8> tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t rest = byte;
    for (int bit = 0; bit < 8; ++bit) rest = rest >> 1 ^ ((rest & 1U) != 0 ? 0xEDB88320U : 0U);
    tables[0][byte] = rest;
  }
  for (std::size_t i = 1; i < 8; ++i) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t rest = tables[i - 1][byte];
      tables[i][byte] = rest >> 8 ^ tables[0][rest & 0xFFU];
    }
  }
  return tables;
}

constexpr std::array<Table, 8> kTables = make_tables();

}  // namespace

std::uint32_t crc32(std::span<const std::byte> bytes) noexcept {
  std::uint32_t rest = ~0U;
  for (; bytes.size() >= 8; bytes = bytes.subspan(8)) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes.data(), 8);
    word ^= rest;
    rest = 0;
    for (std::size_t i = 0; i < 8; ++i) rest ^= kTables[7 - i][word >> (8 * i) & 0xFFU];
  }
  for (const std::byte byte : bytes) {
    rest = rest >> 8 ^ kTables[0][(rest ^ static_cast<std::uint32_t>(byte)) & 0xFFU];
  }
  return ~rest;
}

}  // namespace quern
