#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace quern {

/// Element types met in checkpoints and used on devices.
enum class DType : std::uint8_t {
  f64,
  f32,
  f16,
  bf16,
  f8_e4m3,
  f8_e5m2,
  i64,
  i32,
  i16,
  i8,
  u8,
  boolean
};

/// Bytes of one element.
std::size_t dtype_bytes(DType dtype) noexcept;

/// Name as in a safetensors header: "F32", "BF16", "I32", "BOOL" ...
std::string_view dtype_name(DType dtype) noexcept;

/// Inverse of dtype_name; empty for a name Quern does not know.
std::optional<DType> parse_dtype(std::string_view name) noexcept;

/// True for f64, f32, f16 and bf16: the types a linear layer can be computed from directly.
bool is_plain_float(DType dtype) noexcept;

}  // namespace quern
