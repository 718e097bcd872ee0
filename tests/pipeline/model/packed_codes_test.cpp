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

INSTANTIATE_TEST_SUITE_P(Bits, DecodeGrid, testing::Range(2, 9));

}  // namespace
}  // namespace quern::test
