#include "kernels/core/dtype.h"

#include <array>

#include "kernels/core/error.h"

namespace quern {
namespace {

struct DTypeRow {
  DType dtype;
  std::string_view name;
  std::size_t bytes;
};

constexpr std::array kDTypes = {
    DTypeRow{DType::f64, "F64", 8},         DTypeRow{DType::f32, "F32", 4},
    DTypeRow{DType::f16, "F16", 2},         DTypeRow{DType::bf16, "BF16", 2},
    DTypeRow{DType::f8_e4m3, "F8_E4M3", 1}, DTypeRow{DType::f8_e5m2, "F8_E5M2", 1},
    DTypeRow{DType::i64, "I64", 8},         DTypeRow{DType::i32, "I32", 4},
    DTypeRow{DType::i16, "I16", 2},         DTypeRow{DType::i8, "I8", 1},
    DTypeRow{DType::u8, "U8", 1},           DTypeRow{DType::boolean, "BOOL", 1},
};

constexpr bool rows_in_enum_order() {
  for (std::size_t i = 0; i < kDTypes.size(); ++i) {
    if (static_cast<std::size_t>(kDTypes[i].dtype) != i) return false;
  }
  return true;
}
static_assert(rows_in_enum_order());

}  // namespace

std::size_t dtype_bytes(DType dtype) noexcept {
  return kDTypes[static_cast<std::size_t>(dtype)].bytes;
}

std::string_view dtype_name(DType dtype) noexcept {
  return kDTypes[static_cast<std::size_t>(dtype)].name;
}

std::optional<DType> parse_dtype(std::string_view name) noexcept {
  for (const DTypeRow& row : kDTypes) {
    if (row.name == name) return row.dtype;
  }
  return std::nullopt;
}

bool is_plain_float(DType dtype) noexcept {
  return dtype == DType::f64 || dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16;
}

}  // namespace quern
