#include "pipeline/model/packed_codes.h"

#include <algorithm>

#include "kernels/core/float16.h"

namespace quern {

std::uint32_t packed_field(std::span<const std::int32_t> words, std::size_t stride,
                           std::int64_t index, int bits) {
  const auto position = static_cast<std::size_t>(index) * static_cast<std::size_t>(bits);
  const std::size_t word = position / 32 * stride;
  const std::size_t shift = position % 32;
  std::uint64_t window = static_cast<std::uint32_t>(words[word]);
  if (shift + static_cast<std::size_t>(bits) > 32) {
    window |= static_cast<std::uint64_t>(static_cast<std::uint32_t>(words[word + stride])) << 32;
  }
  return static_cast<std::uint32_t>(window >> shift) & ((1U << bits) - 1U);
}

HostTensor decode_grid(const PackedGrid& grid) {
  constexpr std::size_t tile = 16;  // rows that share a cache line of words
  const auto columns = static_cast<std::size_t>(grid.group_of.shape[0]);
  const auto rows = static_cast<std::size_t>(grid.scales.shape[1]);
  const auto words = grid.words.as<std::int32_t>();
  const auto zeros = grid.zeros.as<std::uint8_t>();
  const auto scales = grid.scales.as<std::uint16_t>();
  const auto groups = grid.group_of.as<std::int32_t>();
  HostTensor weight(DType::f32, {grid.scales.shape[1], grid.group_of.shape[0]});
  const auto out = weight.as<float>();
  for (std::size_t first = 0; first < rows; first += tile) {
    const std::size_t last = std::min(rows, first + tile);
    for (std::size_t k = 0; k < columns; ++k) {
      const std::size_t group = static_cast<std::size_t>(groups[k]) * rows;
      for (std::size_t n = first; n < last; ++n) {
        const auto code = static_cast<int>(
            packed_field(words.subspan(n), rows, static_cast<std::int64_t>(k), grid.bits));
        out[n * columns + k] = f16_to_float(scales[group + n]) *
                               static_cast<float>(code - static_cast<int>(zeros[group + n]));
      }
    }
  }
  return weight;
}

HostTensor decode_codebook(const PackedCodebook& codebook) {
  const auto columns = static_cast<std::size_t>(codebook.columns);
  const auto rows = static_cast<std::size_t>(codebook.table.shape[0]);
  const auto entries = static_cast<std::size_t>(codebook.table.shape[1]);
  const auto words = codebook.words.as<std::int32_t>();
  const auto table = codebook.table.as<float>();
  const auto starts = codebook.rows.as<std::int32_t>();
  HostTensor weight(DType::f32, {codebook.table.shape[0], codebook.columns});
  const auto out = weight.as<float>();
  for (std::size_t n = 0; n < rows; ++n) {
    for (std::size_t k = 0; k < columns; ++k) {
      const std::uint32_t code =
          packed_field(words.subspan(n), rows, static_cast<std::int64_t>(k), codebook.bits);
      out[n * columns + k] = table[n * entries + code];
    }
    for (auto i = static_cast<std::size_t>(starts[n]); i < static_cast<std::size_t>(starts[n + 1]);
         ++i) {
      const auto column = static_cast<std::size_t>(codebook.cols.as<std::int32_t>()[i]);
      out[n * columns + column] += codebook.vals.as<float>()[i];
    }
  }
  return weight;
}

}  // namespace quern
