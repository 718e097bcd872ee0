#include "pipeline/model/packed_codes.h"

#include <gtest/gtest.h>

#include "tests/pipeline/model/packed_bits.h"

namespace quern::test {
namespace {

using Words = std::vector<std::int32_t>;

TEST(PackedField, ReadsKnownWords) {
  const Words nibbles = {0x76543210};
  const Words pairs = {static_cast<std::int32_t>(0xE4E4E4E4U)};
  const Words bytes = {static_cast<std::int32_t>(0xFF030201U)};
  for (unsigned i = 0; i < 8; ++i) EXPECT_EQ(packed_field(nibbles, 1, i, 4), i);
  for (unsigned i = 0; i < 16; ++i) EXPECT_EQ(packed_field(pairs, 1, i, 2), i % 4);
  EXPECT_EQ(packed_field(bytes, 1, 0, 8), 1U);
  EXPECT_EQ(packed_field(bytes, 1, 3, 8), 255U);
}

TEST(PackedField, ThreeBitsAreOneStreamOfThreeWords) {
  // 0 1 2 ... 7 is octal 76543210 = 0xFAC688: bytes 88 C6 FA, four times.
  const Words words = {static_cast<std::int32_t>(0x88FAC688U),
                       static_cast<std::int32_t>(0xC688FAC6U),
                       static_cast<std::int32_t>(0xFAC688FAU)};
  for (unsigned i = 0; i < 32; ++i) EXPECT_EQ(packed_field(words, 1, i, 3), i % 8) << i;
}

TEST(PackedField, StridePassesOverOtherColumns) {
  const Words words = {0x11111111, 0x76543210, 0x22222222, static_cast<std::int32_t>(0xFEDCBA98U)};
  for (unsigned i = 0; i < 16; ++i) {
    EXPECT_EQ(packed_field(std::span(words).subspan(1), 2, i, 4), i);
  }
}

class DecodeGrid : public testing::TestWithParam<int> {};

/// Three rows, 37 columns (no multiple of a word in any width), groups in no order.
TEST_P(DecodeGrid, IsScaleTimesCodeMinusZero) {
  const int bits = GetParam();
  const unsigned top = (1U << bits) - 1U;
  constexpr std::size_t columns = 37;
  std::vector<std::vector<unsigned>> codes(3, std::vector<unsigned>(columns));
  std::vector<std::int32_t> groups(columns);
  for (std::size_t k = 0; k < columns; ++k) {
    for (std::size_t n = 0; n < 3; ++n) codes[n][k] = static_cast<unsigned>(k * 5 + n * 11) & top;
    groups[k] = static_cast<std::int32_t>(k * 7 % 2);
  }
  codes[0][0] = top;
  const std::vector<unsigned> zeros = {0, top, 1, 2, 3, top / 2};
  const std::vector<float> scales = {0.5F, 1.0F, 2.0F, 0.25F, 8.0F, 0.125F};
  const std::vector<std::uint16_t> halves = {0x3800, 0x3C00, 0x4000, 0x3400, 0x4800, 0x3000};
  const HostTensor words = packed_columns(codes, bits);
  const HostTensor scale = host_tensor(DType::f16, {2, 3}, halves);
  const HostTensor zero =
      host_tensor<std::uint8_t>(DType::u8, {2, 3}, {zeros.begin(), zeros.end()});
  const HostTensor group = host_tensor(DType::i32, {static_cast<std::int64_t>(columns)}, groups);
  const HostTensor weight = decode_grid({words, scale, zero, group, bits});
  ASSERT_EQ(weight.shape, (Shape{3, static_cast<std::int64_t>(columns)}));
  for (std::size_t n = 0; n < 3; ++n) {
    for (std::size_t k = 0; k < columns; ++k) {
      const std::size_t g = static_cast<std::size_t>(groups[k]) * 3 + n;
      const int steps = static_cast<int>(codes[n][k]) - static_cast<int>(zeros[g]);
      EXPECT_EQ(weight.as<float>()[n * columns + k], scales[g] * static_cast<float>(steps));
    }
  }
}

/// Pieces of a decoded weight, put together; in order and without gaps.
template <typename Packed>
std::vector<float> joined(void (*decode)(const Packed&, const TakeValues&), const Packed& packed) {
  std::vector<float> values;
  decode(packed, [&](std::uint64_t first, std::span<const float> piece) {
    EXPECT_EQ(first, values.size());
    values.insert(values.end(), piece.begin(), piece.end());
  });
  return values;
}

/// More rows than are decoded at once, and more columns: the last ones of both are few.
TEST_P(DecodeGrid, IsTheSameInPieces) {
  const int bits = GetParam();
  constexpr std::int64_t kRows = 37;
  constexpr std::int64_t kColumns = 133;
  HostTensor words(DType::i32, {(kColumns * bits + 31) / 32, kRows});
  std::uint32_t state = 1;
  for (std::int32_t& word : words.as<std::int32_t>()) {
    word = static_cast<std::int32_t>(state = state * 1664525U + 1013904223U);
  }
  HostTensor scales(DType::f16, {2, kRows});
  for (std::size_t i = 0; i < 2 * kRows; ++i) {
    scales.as<std::uint16_t>()[i] = static_cast<std::uint16_t>(0x3C00U + 8 * i);
  }
  HostTensor zeros(DType::u8, {2, kRows});
  HostTensor groups(DType::i32, {kColumns});
  for (std::size_t k = 70; k < kColumns; ++k) groups.as<std::int32_t>()[k] = 1;
  const PackedGrid grid{words, scales, zeros, groups, bits};
  const HostTensor whole = decode_grid(grid);
  for (std::size_t n = 0; n < kRows; ++n) {
    for (std::size_t k = 0; k < kColumns; ++k) {
      const std::uint32_t code = packed_field(words.as<std::int32_t>().subspan(n), kRows,
                                              static_cast<std::int64_t>(k), bits);
      const std::size_t g = (k < 70 ? 0 : kRows) + n;
      const float scale = 1.0F + static_cast<float>(g) / 128.0F;
      ASSERT_EQ(whole.as<float>()[n * kColumns + k], scale * static_cast<float>(code));
    }
  }
  const auto values = whole.as<float>();
  EXPECT_EQ(joined<PackedGrid>(decode_grid, grid),
            std::vector<float>(values.begin(), values.end()));
}

TEST(DecodeCodebook, IsTheSameInPieces) {
  constexpr std::int64_t kRows = 19;
  constexpr std::int64_t kColumns = 80;
  HostTensor words(DType::i32, {5, kRows});
  for (std::int32_t& word : words.as<std::int32_t>()) word = 0b11100100;
  HostTensor table(DType::f32, {kRows, 4});
  for (std::size_t i = 0; i < 4 * kRows; ++i) table.as<float>()[i] = static_cast<float>(i);
  HostTensor rows(DType::i32, {kRows + 1});
  for (std::size_t n = 18; n <= kRows; ++n) {  // both in rows 17 and 18
    rows.as<std::int32_t>()[n] = static_cast<std::int32_t>(n) - 17;
  }
  HostTensor cols(DType::i32, {2});
  cols.as<std::int32_t>()[1] = 79;
  HostTensor vals(DType::f32, {2});
  vals.as<float>()[0] = 0.5F;
  vals.as<float>()[1] = -0.25F;
  const PackedCodebook codebook{words, table, rows, cols, vals, kColumns, 2};
  const HostTensor whole = decode_codebook(codebook);
  const auto values = whole.as<float>();
  EXPECT_EQ(values[17 * kColumns], 17 * 4 + 0.5F);
  EXPECT_EQ(values[18 * kColumns + 79], 18 * 4 - 0.25F);
  EXPECT_EQ(values[18 * kColumns + 78], 18 * 4 + 0.0F);
  EXPECT_EQ(joined<PackedCodebook>(decode_codebook, codebook),
            std::vector<float>(values.begin(), values.end()));
}

INSTANTIATE_TEST_SUITE_P(Bits, DecodeGrid, testing::Range(2, 9));

}  // namespace
}  // namespace quern::test
