#include "pipeline/model/packed_codes.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstring>
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
constexpr std::size_t kBlock = 64;  // columns decoded at once: whole words at any width

using BlockCodes = std::array<std::int32_t, kBlock>;

/// Rows [first, first + count) of a packed matrix; count at most kTile.
struct RowTile {
  std::size_t first;
  std::size_t count;
  std::size_t first_word;  ///< of row `first` in each line of words
};

/// The words of kBlock columns in the rows of a tile: a bit stream of each row.
class TileStreams {
 public:
  /// words [ceil(K bits / 32), n]; column is a multiple of kBlock.
  void load(const HostTensor& words, int bits, std::size_t column, const RowTile& tile) {
    const auto stride = static_cast<std::size_t>(words.shape[1]);
    const std::size_t begin = column * static_cast<std::size_t>(bits) / 32;
    const std::size_t end = std::min(static_cast<std::size_t>(words.shape[0]),
                                     begin + kBlock * static_cast<std::size_t>(bits) / 32);
    for (std::size_t word = begin; word < end; ++word) {
      const std::int32_t* const line =
          words.as<std::int32_t>().data() + word * stride + tile.first_word;
      for (std::size_t i = 0; i < tile.count; ++i) rows_[i][word - begin] = line[i];
    }
  }

  const std::int32_t* row(std::size_t i) const noexcept { return rows_[i].data(); }

 private:
  std::array<std::array<std::int32_t, kBlock * 8 / 32>, kTile> rows_{};
};

/// The fields of a block's stream: every eight of them begin with a byte.
[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] void unpack(
    const std::int32_t* stream, int bits, BlockCodes& codes) {
  static_assert(std::endian::native == std::endian::little, "streams begin with the lowest bits");
  const auto* bytes = reinterpret_cast<const std::byte*>(stream);
  const std::uint64_t mask = (1U << bits) - 1U;
  for (std::size_t eight = 0; eight < kBlock / 8; ++eight) {
    std::uint64_t fields = 0;
    std::memcpy(&fields, bytes + eight * static_cast<std::size_t>(bits), sizeof fields);
    for (std::size_t i = 0; i < 8; ++i) {
      codes[eight * 8 + i] =
          static_cast<std::int32_t>(fields >> (i * static_cast<std::size_t>(bits)) & mask);
    }
  }
}

[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] void scale_steps(
    std::span<const std::int32_t> codes, int zero, float scale, float* out) {
  for (std::size_t i = 0; i < codes.size(); ++i) {
    out[i] = scale * static_cast<float>(codes[i] - zero);
  }
}

/// Calls decode(i, column, codes) for the codes from this column on in row i of the tile, for all
/// of them.
template <typename Decode>
void for_codes(const HostTensor& words, int bits, std::size_t columns, const RowTile& tile,
               Decode decode) {
  TileStreams streams;
  BlockCodes codes;
  for (std::size_t column = 0; column < columns; column += kBlock) {
    streams.load(words, bits, column, tile);
    const std::size_t width = std::min(kBlock, columns - column);
    for (std::size_t i = 0; i < tile.count; ++i) {
      unpack(streams.row(i), bits, codes);
      decode(i, column, std::span<const std::int32_t>(codes).first(width));
    }
  }
}

/// call(tile) for all rows whose words are there.
template <typename Call>
void for_tiles(const HostTensor& words, std::int64_t first_row, Call call) {
  const auto rows = static_cast<std::size_t>(words.shape[1]);
  for (std::size_t word = 0; word < rows; word += kTile) {
    call(RowTile{static_cast<std::size_t>(first_row) + word, std::min(kTile, rows - word), word});
  }
}

/// A grid, with where the runs of columns in one group end.
struct GridRuns {
  explicit GridRuns(const PackedGrid& packed) : grid(packed) {
    const auto groups = grid.group_of.as<std::int32_t>();
    ends.resize(groups.size());
    for (std::size_t k = groups.size(); k-- > 0;) {
      const bool last = k + 1 == groups.size() || groups[k + 1] != groups[k];
      ends[k] = last ? k + 1 : ends[k + 1];
    }
  }

  const PackedGrid& grid;
  std::vector<std::size_t> ends;  ///< of the run that a column is in
};

/// The rows of a tile, one behind the other.
void decode_tile(const GridRuns& runs, const RowTile& tile, float* out) {
  const PackedGrid& grid = runs.grid;
  const auto groups = grid.group_of.as<std::int32_t>();
  const auto scales = grid.scales.as<std::uint16_t>();
  const auto zeros = grid.zeros.as<std::uint8_t>();
  const auto rows = static_cast<std::size_t>(grid.scales.shape[1]);
  const auto decode = [&](std::size_t i, std::size_t column, std::span<const std::int32_t> codes) {
    while (!codes.empty()) {
      const std::size_t at = static_cast<std::size_t>(groups[column]) * rows + tile.first + i;
      const std::size_t count = std::min(codes.size(), runs.ends[column] - column);
      scale_steps(codes.first(count), zeros[at], f16_to_float(scales[at]),
                  out + i * groups.size() + column);
      codes = codes.subspan(count);
      column += count;
    }
  };
  for_codes(grid.words, grid.bits, groups.size(), tile, decode);
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
  const auto columns = static_cast<std::size_t>(codebook.columns);
  const auto entries = static_cast<std::size_t>(codebook.table.shape[1]);
  const float* const tables = codebook.table.as<float>().data() + tile.first * entries;
  const auto decode = [&](std::size_t i, std::size_t column, std::span<const std::int32_t> codes) {
    const float* const table = tables + i * entries;
    float* const row = out + i * columns + column;
    for (std::size_t k = 0; k < codes.size(); ++k) row[k] = table[codes[k]];
  };
  for_codes(codebook.words, codebook.bits, columns, tile, decode);
  add_outliers(codebook, tile, out);
}

/// The rows whose words are there; packed: what decode_tile() takes.
template <typename Codes, typename Packed>
HostTensor decode_whole(const Codes& codes, std::int64_t columns, const Packed& packed) {
  HostTensor weight(DType::f32, {codes.words.shape[1], columns});
  float* const out = weight.as<float>().data();
  for_tiles(codes.words, codes.first_row, [&](const RowTile& tile) {
    decode_tile(packed, tile, out + tile.first_word * static_cast<std::size_t>(columns));
  });
  return weight;
}

template <typename Codes, typename Packed>
void decode_tiles(const Codes& codes, std::int64_t columns, const Packed& packed,
                  const TakeValues& take) {
  const auto width = static_cast<std::size_t>(columns);
  std::vector<float> rows(kTile * width);
  for_tiles(codes.words, codes.first_row, [&](const RowTile& tile) {
    decode_tile(packed, tile, rows.data());
    take(tile.first * width, std::span(rows).first(tile.count * width));
  });
}

}  // namespace

HostTensor decode_grid(const PackedGrid& grid) {
  return decode_whole(grid, grid.group_of.shape[0], GridRuns(grid));
}

void decode_grid(const PackedGrid& grid, const TakeValues& take) {
  decode_tiles(grid, grid.group_of.shape[0], GridRuns(grid), take);
}

HostTensor decode_codebook(const PackedCodebook& codebook) {
  return decode_whole(codebook, codebook.columns, codebook);
}

void decode_codebook(const PackedCodebook& codebook, const TakeValues& take) {
  decode_tiles(codebook, codebook.columns, codebook, take);
}

}  // namespace quern
