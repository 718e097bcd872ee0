#include "kernels/solver.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "kernels/core/error.h"

namespace quern {
namespace {

constexpr int kMinBits = 2;
constexpr int kMaxBits = 8;

void check(const char* operation, const char* name, const ConstTensorView& view, DType dtype,
           const Shape& shape) {
  if (view.dtype == dtype && view.shape == shape) return;
  throw ShapeError(fmt::format("{}: {} is {} {}; expected {} {}", operation, name,
                               dtype_name(view.dtype), view.shape.text(), dtype_name(dtype),
                               shape.text()));
}

/// A plain float matrix with at least one element.
void check_matrix(const char* operation, const char* name, const ConstTensorView& view) {
  if (is_plain_float(view.dtype) && view.shape.rank() == 2 && view.elems() > 0) return;
  throw ShapeError(fmt::format("{}: {} is {} {}; expected a matrix of a plain float type",
                               operation, name, dtype_name(view.dtype), view.shape.text()));
}

void check_gram(const char* operation, const GramView& gram, std::int64_t columns) {
  check(operation, "gram.sums", gram.sums, DType::i64, {columns, columns});
  check(operation, "gram.exponents", gram.exponents, DType::i32, {columns});
  check(operation, "gram.overflow", gram.overflow, DType::i64, {1});
}

void check_bits(const char* operation, int bits) {
  if (bits >= kMinBits && bits <= kMaxBits) return;
  throw ShapeError(
      fmt::format("{}: {} bits; expected {} to {}", operation, bits, kMinBits, kMaxBits));
}

void check_group_size(const char* operation, std::int64_t group_size) {
  if (group_size == -1 || group_size >= 1) return;
  throw ShapeError(fmt::format("{}: group size {}; expected -1 for whole rows, or at least 1",
                               operation, group_size));
}

/// The part of `range` that `rows` rows have.
RowRange checked_range(const char* operation, const RowRange& range, std::int64_t rows) {
  const std::int64_t slice = Solver::row_slice(rows);
  const auto at_slice = [&](std::int64_t row) { return row == rows || row % slice == 0; };
  const RowRange inside{std::min(range.begin, rows), std::min(range.end, rows)};
  if (inside.begin >= 0 && inside.count() >= 0 && at_slice(inside.begin) && at_slice(inside.end)) {
    return inside.count() == 0 ? RowRange{0, 0} : inside;
  }
  throw ShapeError(fmt::format("{}: rows {} to {} of {}; expected multiples of {}, or the end",
                               operation, range.begin, range.end, rows, slice));
}

/// The modules of an input, with ranges that lie within them.
std::vector<GridModule> checked(const char* operation, std::span<const GridModule> modules) {
  std::vector<GridModule> result(modules.begin(), modules.end());
  for (GridModule& module : result) {
    check_matrix(operation, "weight", module.weight);
    check(operation, "weight", module.weight, module.weight.dtype,
          {module.weight.shape[0], result.front().weight.shape[1]});
    check_bits(operation, module.grid.bits);
    check_group_size(operation, module.grid.group_size);
    module.rows = checked_range(operation, module.rows, module.weight.shape[0]);
  }
  return result;
}

/// [words, N] holds K codes of `bits` bits each in 32-bit words along K.
void check_packed(const char* operation, const ConstTensorView& codes, int bits,
                  const ConstTensorView& words) {
  check_bits(operation, bits);
  if (codes.dtype != DType::u8 || codes.shape.rank() != 2) {
    throw ShapeError(fmt::format("{}: codes are {} {}; expected U8 [N, K]", operation,
                                 dtype_name(codes.dtype), codes.shape.text()));
  }
  check(operation, "words", words, DType::i32, {(codes.shape[1] * bits + 31) / 32, codes.shape[0]});
}

}  // namespace

std::int64_t group_count(std::int64_t columns, std::int64_t group_size) noexcept {
  return group_size < 1 ? 1 : (columns + group_size - 1) / group_size;
}

std::vector<HessianFactor> Solver::factorise(std::span<const HessianTask> tasks) {
  if (tasks.empty()) return {};
  const Shape& shape = tasks.front().gram.sums.shape;
  if (shape.rank() != 2 || shape.elems() == 0) {
    throw ShapeError(fmt::format("factorise: gram.sums is {}; expected [K, K]", shape.text()));
  }
  for (const HessianTask& task : tasks) {
    check_gram("factorise", task.gram, shape[0]);
    check_group_size("factorise", task.group_size);
    const Damping& damping = task.damping;
    if (!(damping.fraction >= 0.0 && damping.fraction <= damping.max_fraction) ||
        !std::isfinite(damping.max_fraction)) {
      throw ShapeError(
          fmt::format("factorise: damping from {} to {}; expected finite values, 0 <= from <= to",
                      damping.fraction, damping.max_fraction));
    }
  }
  return do_factorise(tasks);
}

std::int64_t Solver::row_slice(std::int64_t rows) noexcept {
  constexpr std::int64_t kUnit = 64;
  const std::int64_t parts = rows >= 8192 ? 8 : 4;
  return std::max<std::int64_t>(1, (rows + parts * kUnit - 1) / (parts * kUnit)) * kUnit;
}

std::vector<QuantizedTensor> Solver::gptq(std::span<const GridModule> modules,
                                          const HessianFactor& factor) {
  if (modules.empty()) return {};
  const std::vector<GridModule> sound = checked("gptq", modules);
  const std::int64_t columns = sound.front().weight.shape[1];
  check("gptq", "factor.feedback", factor.feedback.view(), DType::f64, {columns, columns});
  check("gptq", "factor.diagonal", factor.diagonal.view(), DType::f64, {columns});
  check("gptq", "factor.order", factor.order.view(), DType::i32, {columns});
  check("gptq", "factor.weight", factor.weight.view(), DType::f64, {columns});
  return do_gptq(sound, factor);
}

std::vector<QuantizedTensor> Solver::round_to_nearest(
    std::span<const GridModule> modules, std::optional<ConstTensorView> column_weight) {
  if (modules.empty()) return {};
  const std::vector<GridModule> sound = checked("round_to_nearest", modules);
  if (column_weight) {
    check("round_to_nearest", "column_weight", *column_weight, DType::f64,
          {sound.front().weight.shape[1]});
  }
  return do_round_to_nearest(sound, column_weight);
}

void Solver::dequantize(const QuantizedTensor& quantized, TensorView out) {
  check_matrix("dequantize", "out", out);
  check("dequantize", "out", out, DType::f32, out.shape);
  check("dequantize", "codes", quantized.codes.view(), DType::u8, out.shape);
  check("dequantize", "group_of", quantized.group_of.view(), DType::i32, {out.shape[1]});
  const Shape& scales = quantized.scales.shape();
  const std::int64_t groups = scales.rank() == 2 ? scales[0] : 0;
  check("dequantize", "scales", quantized.scales.view(), DType::f16, {groups, out.shape[0]});
  check("dequantize", "zeros", quantized.zeros.view(), DType::u8, {groups, out.shape[0]});
  do_dequantize(quantized, out);
}

void Solver::quadratic_error(ConstTensorView weight, ConstTensorView quantized,
                             const GramView& gram, TensorView result) {
  check_matrix("quadratic_error", "weight", weight);
  check("quadratic_error", "quantized", quantized, DType::f32, weight.shape);
  check_gram("quadratic_error", gram, weight.shape[1]);
  check("quadratic_error", "result", result, DType::f64, {weight.shape[0], 2});
  do_quadratic_error(weight, quantized, gram, result);
}

void Solver::pack(ConstTensorView codes, int bits, TensorView out) {
  check_packed("pack", codes, bits, out);
  do_pack(codes, bits, out);
}

void Solver::unpack(ConstTensorView words, int bits, TensorView codes) {
  check_packed("unpack", codes, bits, words);
  do_unpack(words, bits, codes);
}

}  // namespace quern
