#include "kernels/core/dtype.h"

#include <gtest/gtest.h>

#include <set>

namespace quern::test {
namespace {

struct Row {
  DType dtype;
  const char* name;
  std::size_t bytes;
  bool plain_float;
};

// Names and sizes as the safetensors format defines them.
constexpr Row kRows[] = {
    {DType::f64, "F64", 8, true},          {DType::f32, "F32", 4, true},
    {DType::f16, "F16", 2, true},          {DType::bf16, "BF16", 2, true},
    {DType::f8_e4m3, "F8_E4M3", 1, false}, {DType::f8_e5m2, "F8_E5M2", 1, false},
    {DType::i64, "I64", 8, false},         {DType::i32, "I32", 4, false},
    {DType::i16, "I16", 2, false},         {DType::i8, "I8", 1, false},
    {DType::u8, "U8", 1, false},           {DType::boolean, "BOOL", 1, false},
};

TEST(DTypeTest, HasNameSizeAndKindOfTheFormat) {
  for (const Row& row : kRows) {
    EXPECT_EQ(dtype_name(row.dtype), row.name);
    EXPECT_EQ(dtype_bytes(row.dtype), row.bytes) << row.name;
    EXPECT_EQ(is_plain_float(row.dtype), row.plain_float) << row.name;
    EXPECT_EQ(parse_dtype(row.name), row.dtype) << row.name;
  }
}

TEST(DTypeTest, NamesAreDistinct) {
  std::set<std::string_view> names;
  for (const Row& row : kRows) names.insert(dtype_name(row.dtype));
  EXPECT_EQ(names.size(), std::size(kRows));
}

TEST(DTypeTest, RefusesUnknownNames) {
  for (const char* name : {"", "f32", "F32 ", "F", "F128", "float32", "U64", "BF16\n"}) {
    EXPECT_EQ(parse_dtype(name), std::nullopt) << name;
  }
}

}  // namespace
}  // namespace quern::test
