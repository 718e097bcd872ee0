#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "kernels/operands.h"

namespace quern {

/// Elementwise work is handed out in pieces of this many elements; less is not worth a second
/// thread.
inline constexpr std::int64_t kPiece = 16384;

inline std::int64_t piece_count(std::int64_t elems) {
  return (elems + kPiece - 1) / kPiece;
}

inline std::int64_t piece_size(std::int64_t elems, std::int64_t piece) {
  return std::min(kPiece, elems - piece * kPiece);
}

/// Throws ShapeError unless all operands are f32.
inline void expect_float(const char* operation, std::initializer_list<Operand> operands) {
  const bool holds = std::ranges::all_of(
      operands, [](const Operand& operand) { return operand.view.dtype == DType::f32; });
  expect_operands(holds, operation, "F32 activations on the CPU", operands);
}

}  // namespace quern
