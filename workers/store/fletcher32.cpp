#include "workers/store/fletcher32.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

namespace quern::hdf5 {
namespace {

static_assert(std::endian::native == std::endian::little, "words are summed as they lie");

/// Of words w[0..n), both in 1..65535 unless all words are zero, as the library leaves them.
struct Sums {
  std::uint64_t sum = 0;          ///< of w[i]
  std::uint64_t sum_of_sums = 0;  ///< of (n - i) w[i]
};

constexpr std::size_t kLanes = 32;
constexpr std::size_t kMostRows = 256;  // row sums of sums of 16 bits stay below 2^32

std::uint64_t reduced(std::uint64_t value) {
  return value == 0 ? 0 : (value - 1) % 0xFFFF + 1;
}

void append(Sums& sums, std::uint64_t words, std::uint64_t sum, std::uint64_t sum_of_sums) {
  sums.sum_of_sums = reduced(sums.sum_of_sums + words * sums.sum + sum_of_sums);
  sums.sum = reduced(sums.sum + sum);
}

/// Rows of kLanes words each; a lane sums one column.
void append_rows(Sums& sums, const std::byte* words, std::size_t rows) {
  std::array<std::uint32_t, kLanes> sum{};
  std::array<std::uint32_t, kLanes> sum_of_sums{};
  for (std::size_t row = 0; row < rows; ++row) {
    std::array<std::uint16_t, kLanes> word;
    std::memcpy(word.data(), words + row * sizeof word, sizeof word);
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      sum[lane] += word[lane];
      sum_of_sums[lane] += sum[lane];
    }
  }
  std::uint64_t total = 0;
  std::uint64_t weighted = 0;
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    total += sum[lane];
    // Of word `row` in this lane, (rows - row) kLanes - lane words follow, itself included.
    weighted += std::uint64_t{kLanes} * sum_of_sums[lane] - lane * std::uint64_t{sum[lane]};
  }
  append(sums, rows * kLanes, total, weighted);
}

void append_word(Sums& sums, std::span<const std::byte> bytes) {
  std::uint16_t word = 0;
  std::memcpy(&word, bytes.data(), std::min(bytes.size(), sizeof word));
  append(sums, 1, word, word);
}

}  // namespace

std::uint32_t fletcher32(std::span<const std::byte> bytes, std::size_t zero_bytes) {
  constexpr std::size_t kRowBytes = kLanes * 2;
  const std::size_t zero_words = (bytes.size() + zero_bytes + 1) / 2 - (bytes.size() + 1) / 2;
  Sums sums;
  while (bytes.size() >= kRowBytes) {
    const std::size_t rows = std::min(bytes.size() / kRowBytes, kMostRows);
    append_rows(sums, bytes.data(), rows);
    bytes = bytes.subspan(rows * kRowBytes);
  }
  while (!bytes.empty()) {
    append_word(sums, bytes);
    bytes = bytes.subspan(std::min<std::size_t>(bytes.size(), 2));
  }
  append(sums, zero_words, 0, 0);
  // The library sums words whose most significant byte comes first. Modulo 65535, swapping the
  // bytes is a product, which may as well be taken of the sums.
  const auto swapped = [](std::uint64_t sum) {
    return static_cast<std::uint32_t>((sum & 0xFFU) << 8U | sum >> 8U);
  };
  return swapped(sums.sum_of_sums) << 16U | swapped(sums.sum);
}

}  // namespace quern::hdf5
