#include "pipeline/model/packed_codes.h"

#include <algorithm>
#include <array>
#include <vector>

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

namespace {

constexpr std::size_t kTile = 16;   // rows that share a cache line of words
constexpr std::size_t kBlock = 64;  // columns decoded before they are written row by row

/// Rows [first, first + count) of a packed matrix; count at most kTile.
struct RowTile {
  std::size_t first;
  std::size_t count;
};

using TileCodes = std::array<std::uint32_t, kTile>;

/// Words of one line of a packed matrix in the rows of a tile.
void load_words(const std::int32_t* line, std::size_t count, TileCodes& words) {
  if (count == kTile) {  // a length the compiler knows
    for (std::size_t i = 0; i < kTile; ++i) words[i] = static_cast<std::uint32_t>(line[i]);
    return;
  }
  for (std::size_t i = 0; i < count; ++i) words[i] = static_cast<std::uint32_t>(line[i]);
}

/// The fields of one column k in the rows of a tile; words [ceil(K bits / 32), N].
void read_column(const HostTensor& words, int bits, std::size_t k, const RowTile& tile,
                 TileCodes& codes) {
  const auto stride = static_cast<std::size_t>(words.shape[1]);
  const std::size_t position = k * static_cast<std::size_t>(bits);
  const std::size_t shift = position % 32;
  const std::uint32_t mask = (1U << bits) - 1U;
  const auto* low = words.as<std::int32_t>().data() + position / 32 * stride + tile.first;
  load_words(low, tile.count, codes);
  if (shift + static_cast<std::size_t>(bits) <= 32) {
    for (std::uint32_t& code : codes) code = (code >> shift) & mask;
    return;
  }
  TileCodes high{};
  load_words(low + stride, tile.count, high);
  for (std::size_t i = 0; i < kTile; ++i) {
    codes[i] = ((codes[i] >> shift) | (high[i] << (32 - shift))) & mask;
  }
}

/// Calls decode(k, values of column k in the tile) for all columns; writes the rows one behind the
/// other. Rows may lie a power of two apart, where writing columns would miss the cache.
template <typename Decode>
void write_rows(std::size_t columns, const RowTile& tile, float* out, Decode decode) {
  std::array<std::array<float, kTile>, kBlock> block{};
  for (std::size_t begin = 0; begin < columns; begin += kBlock) {
    const std::size_t width = std::min(kBlock, columns - begin);
    for (std::size_t k = 0; k < width; ++k) decode(begin + k, block[k]);
    for (std::size_t i = 0; i < tile.count; ++i) {
      float* const row = out + i * columns + begin;
      for (std::size_t k = 0; k < width; ++k) row[k] = block[k][i];
    }
  }
}

/// call(tile) for all rows.
template <typename Call>
void for_tiles(std::int64_t rows, Call call) {
  for (std::size_t first = 0; first < static_cast<std::size_t>(rows); first += kTile) {
    call(RowTile{first, std::min(kTile, static_cast<std::size_t>(rows) - first)});
  }
}

/// Scales and zero points of a group in the rows of a tile.
struct TileGrid {
  std::array<float, kTile> scales{};
  std::array<int, kTile> zeros{};

  void load(const PackedGrid& grid, std::size_t group, const RowTile& tile) {
    const std::size_t begin = group * static_cast<std::size_t>(grid.scales.shape[1]) + tile.first;
    for (std::size_t i = 0; i < tile.count; ++i) {
      scales[i] = f16_to_float(grid.scales.as<std::uint16_t>()[begin + i]);
      zeros[i] = grid.zeros.as<std::uint8_t>()[begin + i];
    }
  }
};

/// The rows of a tile, one behind the other.
void decode_tile(const PackedGrid& grid, const RowTile& tile, float* out) {
  const auto groups = grid.group_of.as<std::int32_t>();
  TileGrid of_group;
  TileCodes codes{};
  write_rows(groups.size(), tile, out, [&](std::size_t k, std::array<float, kTile>& values) {
    if (k == 0 || groups[k] != groups[k - 1]) {
      of_group.load(grid, static_cast<std::size_t>(groups[k]), tile);
    }
    read_column(grid.words, grid.bits, k, tile, codes);
    for (std::size_t i = 0; i < kTile; ++i) {
      values[i] =
          of_group.scales[i] * static_cast<float>(static_cast<int>(codes[i]) - of_group.zeros[i]);
    }
  });
}

void add_outliers(const PackedCodebook& codebook, const RowTile& tile, float* out) {
  const auto columns = static_cast<std::size_t>(codebook.columns);
  const auto starts = codebook.rows.as<std::int32_t>();
  for (std::size_t row = 0; row < tile.count; ++row) {
    const auto end = static_cast<std::size_t>(starts[tile.first + row + 1]);
    for (auto i = static_cast<std::size_t>(starts[tile.first + row]); i < end; ++i) {
      const auto column = static_cast<std::size_t>(codebook.cols.as<std::int32_t>()[i]);
      out[row * columns + column] += codebook.vals.as<float>()[i];
    }
  }
}

void decode_tile(const PackedCodebook& codebook, const RowTile& tile, float* out) {
  const auto entries = static_cast<std::size_t>(codebook.table.shape[1]);
  const float* const table = codebook.table.as<float>().data() + tile.first * entries;
  TileCodes codes{};
  write_rows(static_cast<std::size_t>(codebook.columns), tile, out,
             [&](std::size_t k, std::array<float, kTile>& values) {
               read_column(codebook.words, codebook.bits, k, tile, codes);
               for (std::size_t i = 0; i < tile.count; ++i) {
                 values[i] = table[i * entries + codes[i]];
               }
             });
  add_outliers(codebook, tile, out);
}

Shape shape_of(const PackedGrid& grid) {
  return {grid.scales.shape[1], grid.group_of.shape[0]};
}

Shape shape_of(const PackedCodebook& codebook) {
  return {codebook.table.shape[0], codebook.columns};
}

template <typename Packed>
HostTensor decode_whole(const Packed& packed) {
  HostTensor weight(DType::f32, shape_of(packed));
  const auto columns = static_cast<std::size_t>(weight.shape[1]);
  float* const out = weight.as<float>().data();
  for_tiles(weight.shape[0],
            [&](const RowTile& tile) { decode_tile(packed, tile, out + tile.first * columns); });
  return weight;
}

template <typename Packed>
void decode_tiles(const Packed& packed, const TakeValues& take) {
  const Shape shape = shape_of(packed);
  const auto columns = static_cast<std::size_t>(shape[1]);
  std::vector<float> rows(kTile * columns);
  for_tiles(shape[0], [&](const RowTile& tile) {
    decode_tile(packed, tile, rows.data());
    take(tile.first * columns, std::span(rows).first(tile.count * columns));
  });
}

}  // namespace

HostTensor decode_grid(const PackedGrid& grid) {
  return decode_whole(grid);
}

void decode_grid(const PackedGrid& grid, const TakeValues& take) {
  decode_tiles(grid, take);
}

HostTensor decode_codebook(const PackedCodebook& codebook) {
  return decode_whole(codebook);
}

void decode_codebook(const PackedCodebook& codebook, const TakeValues& take) {
  decode_tiles(codebook, take);
}

}  // namespace quern
