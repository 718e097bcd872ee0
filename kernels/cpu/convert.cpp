#include "kernels/cpu/convert.h"

#include <bit>
#include <cmath>

#include "kernels/core/error.h"
#include "kernels/core/float16.h"

namespace quern {
namespace {

/// The float next to `value` towards zero, its last bit set if inexact: rounding that again to at
/// most 22 bits gives what rounding `value` once would.
float to_odd_float(double value) {
  const auto nearest = static_cast<float>(value);
  const auto back = static_cast<double>(nearest);
  if (back == value || std::isnan(value)) return nearest;
  const auto bits = std::bit_cast<std::uint32_t>(nearest);
  return std::bit_cast<float>((std::fabs(back) > std::fabs(value) ? bits - 1 : bits) | 1U);
}

// How an element of each type is stored, widened without loss and narrowed with rounding.
struct F64 {
  using Stored = double;
  static double widen(double stored) { return stored; }
  static double narrow(float value) { return static_cast<double>(value); }
  static double narrow(double value) { return value; }
};
struct F32 {
  using Stored = float;
  static float widen(float stored) { return stored; }
  static float narrow(float value) { return value; }
  static float narrow(double value) { return static_cast<float>(value); }
};
struct F16 {
  using Stored = std::uint16_t;
  static float widen(std::uint16_t stored) { return f16_to_float(stored); }
  static std::uint16_t narrow(float value) { return float_to_f16(value); }
  static std::uint16_t narrow(double value) { return float_to_f16(to_odd_float(value)); }
};
struct Bf16 {
  using Stored = std::uint16_t;
  static float widen(std::uint16_t stored) { return bf16_to_float(stored); }
  static std::uint16_t narrow(float value) { return float_to_bf16(value); }
  static std::uint16_t narrow(double value) { return float_to_bf16(to_odd_float(value)); }
};

template <typename Call>
void with_element(DType dtype, Call call) {
  switch (dtype) {
    case DType::f64:
      return call(F64{});
    case DType::f32:
      return call(F32{});
    case DType::f16:
      return call(F16{});
    case DType::bf16:
      return call(Bf16{});
    default:
      ensure(false, "a plain float type");
  }
}

template <typename To>
void load(const ConstTensorView& in, std::int64_t begin, std::int64_t count,
          typename To::Stored* out) {
  with_element(in.dtype, [&]<typename From>(From) {
    const auto* source = in.as<typename From::Stored>() + begin;
    for (std::int64_t i = 0; i < count; ++i) out[i] = To::narrow(From::widen(source[i]));
  });
}

}  // namespace

void convert_elems(const ConstTensorView& in, const TensorView& out, std::int64_t begin,
                   std::int64_t count) {
  with_element(in.dtype, [&]<typename From>(From) {
    with_element(out.dtype, [&]<typename To>(To) {
      const auto* source = in.as<typename From::Stored>() + begin;
      auto* target = out.as<typename To::Stored>() + begin;
      for (std::int64_t i = 0; i < count; ++i) target[i] = To::narrow(From::widen(source[i]));
    });
  });
}

void load_elems(const ConstTensorView& in, std::int64_t begin, std::int64_t count, float* out) {
  load<F32>(in, begin, count, out);
}

void load_elems(const ConstTensorView& in, std::int64_t begin, std::int64_t count, double* out) {
  load<F64>(in, begin, count, out);
}

}  // namespace quern
