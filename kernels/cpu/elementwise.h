#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "kernels/core/error.h"
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

/// Throws ShapeError unless all operands have one type that the CPU computes in: f32 or f64.
inline void expect_activation(const char* operation, std::initializer_list<Operand> operands) {
  const DType dtype = operands.begin()->view.dtype;
  const bool holds = (dtype == DType::f32 || dtype == DType::f64) &&
                     std::ranges::all_of(operands, [dtype](const Operand& operand) {
                       return operand.view.dtype == dtype;
                     });
  expect_operands(holds, operation, "activations of one type, F32 or F64, on the CPU", operands);
}

/// Calls with a value of the activations' element type.
template <typename Call>
void with_activation(DType dtype, Call call) {
  if (dtype == DType::f64) return call(double{});
  ensure(dtype == DType::f32, "an activation type of the CPU: f32 or f64");
  call(float{});
}

}  // namespace quern
