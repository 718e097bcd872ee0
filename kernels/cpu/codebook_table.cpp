#include "kernels/cpu/codebook_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/core/error.h"
#include "kernels/core/float16.h"
#include "kernels/cpu/codebook_kernels.h"
#include "kernels/cpu/convert.h"

namespace quern {
namespace {

constexpr std::size_t kMaxCount = 256;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// Nearest finite value of the type.
float rounded(double value, DType dtype) {
  const double limit =
      dtype == DType::f16 ? 65504.0 : static_cast<double>(std::numeric_limits<float>::max());
  const auto single = static_cast<float>(std::clamp(value, -limit, limit));
  const float stored = dtype == DType::f16 ? f16_to_float(float_to_f16(single)) : single;
  return stored + 0.0F;  // -0 to +0
}

/// Nearest value of 8 significant bits, or the next smaller one at the end of the range; a f16
/// below its normal range has fewer bits still.
float shortened(float value, DType dtype) {
  const float near = bf16_to_float(float_to_bf16(value));
  const float stored = rounded(near, dtype);
  if (stored == near || (dtype == DType::f16 && std::fabs(near) < 1.0F)) return stored;
  return std::copysign(dtype == DType::f16 ? 65280.0F : 0x1.FEp127F, value);
}

bool nearer_to_zero(float a, float b) {
  return std::fabs(a) < std::fabs(b) || (std::fabs(a) == std::fabs(b) && a < b);
}

}  // namespace

void finish_table(std::span<const double> values, const TableFormat& format, float* table,
                  std::uint8_t* places) {
  std::array<float, kMaxCount> stored;
  const auto end = stored.begin() + static_cast<std::ptrdiff_t>(values.size());
  std::transform(values.begin(), values.end(), stored.begin(),
                 [&](double value) { return rounded(value, format.dtype); });
  const float least = format.largest_outlier.value_or(0.0F) * 0x1p-18F;
  while (format.largest_outlier && !values.empty()) {
    // Another one may be nearest once this one is rounded.
    float& nearest = *std::min_element(stored.begin(), end, nearer_to_zero);
    const float next = std::fabs(nearest) < least ? 0.0F : shortened(nearest, format.dtype);
    if (next == nearest) break;
    nearest = next;
  }
  float* last = std::copy(stored.begin(), end, table);
  std::sort(table, last);
  last = std::unique(table, last);
  for (std::size_t i = 0; i < values.size(); ++i) {
    places[i] = static_cast<std::uint8_t>(std::lower_bound(table, last, stored[i]) - table);
  }
  std::fill(last, table + format.count, last == table ? 0.0F : last[-1]);
}

std::optional<float> largest_outlier(std::span<const float> w, std::span<const std::uint8_t> mask) {
  if (std::find(mask.begin(), mask.end(), std::uint8_t{1}) == mask.end()) return std::nullopt;
  float largest = 0.0F;
  for (std::size_t k = 0; k < w.size(); ++k) {
    if (mask[k] != 0) largest = std::max(largest, std::fabs(w[k]));
  }
  return largest;
}

std::uint8_t zero_code(const float* table, int count) {
  return static_cast<std::uint8_t>(std::min_element(table, table + count, nearer_to_zero) - table);
}

void nearest_codes(std::span<const float> w, const float* table, int count, std::uint8_t* codes) {
  std::array<float, kMaxCount> bounds;
  for (std::size_t c = 0; c + 1 < static_cast<std::size_t>(count); ++c) {
    const double middle = 0.5 * (static_cast<double>(table[c]) + static_cast<double>(table[c + 1]));
    auto bound = static_cast<float>(middle);
    if (static_cast<double>(bound) > middle) bound = std::nextafter(bound, -kInfinity);
    bounds[c] = table[c] == table[c + 1] ? kInfinity : bound;
  }
  count_bounds_below(w.data(), static_cast<std::int64_t>(w.size()), bounds.data(), count - 1,
                     codes);
}

std::optional<float> outlier_value(float w, float centroid, bool exactly) {
  const auto value = static_cast<float>(static_cast<double>(w) - static_cast<double>(centroid));
  for (const float candidate :
       {value, std::nextafter(value, -kInfinity), std::nextafter(value, kInfinity)}) {
    if (centroid + candidate == w) return candidate;
  }
  if (exactly) return std::nullopt;
  return value;
}

bool has_short_weights(const ConstTensorView& weight) {
  return weight.dtype == DType::bf16 || weight.dtype == DType::f16;
}

CodebookState allocate_state(Memory& memory, const Shape& shape, const CodebookSpec& spec) {
  const std::int64_t count = std::int64_t{1} << spec.bits;
  return {memory.allocate(DType::u8, shape), memory.allocate(DType::f32, {shape[0], count}),
          memory.allocate(DType::u8, shape)};
}

CodebookRow row_of(CodebookState& state, std::int64_t n) {
  const std::int64_t columns = state.codes.shape()[1];
  const std::int64_t count = state.table.shape()[1];
  const auto width = static_cast<std::size_t>(columns);
  return {{state.codes.view().as<std::uint8_t>() + n * columns, width},
          {state.table.view().as<float>() + n * count, static_cast<std::size_t>(count)},
          {state.mask.view().as<std::uint8_t>() + n * columns, width}};
}

void copy_row(CodebookState& from, CodebookState& to, std::int64_t n) {
  const CodebookRow source = row_of(from, n);
  const CodebookRow target = row_of(to, n);
  std::copy(source.codes.begin(), source.codes.end(), target.codes.begin());
  std::copy(source.table.begin(), source.table.end(), target.table.begin());
  std::copy(source.mask.begin(), source.mask.end(), target.mask.begin());
}

void settle_outliers(std::span<const float> w, bool exactly, const CodebookRow& row) {
  const std::uint8_t zero = zero_code(row.table.data(), static_cast<int>(row.table.size()));
  for (std::size_t k = 0; k < w.size(); ++k) {
    if (row.mask[k] == 0) continue;
    if (outlier_value(w[k], row.table[zero], exactly)) {
      row.codes[k] = zero;
    } else {
      row.mask[k] = 0;
    }
  }
}

CodebookTensor assemble(Memory& memory, ConstTensorView weight, CodebookState state, int threads) {
  const std::int64_t rows = weight.shape[0];
  const std::int64_t columns = weight.shape[1];
  const bool exactly = has_short_weights(weight);
  Tensor starts = memory.allocate(DType::i32, {rows + 1});
  auto* start = starts.view().as<std::int32_t>();
  std::int64_t total = 0;
  start[0] = 0;
  for (std::int64_t n = 0; n < rows; ++n) {
    const auto mask = row_of(state, n).mask;
    total += std::count(mask.begin(), mask.end(), std::uint8_t{1});
    if (total > std::numeric_limits<std::int32_t>::max()) {
      throw InputError(fmt::format(
          "cluster: a module keeps more than 2^31 weights apart by row {} of {}; its sparse matrix "
          "counts in 32 bits; ask for fewer outliers",
          n, rows));
    }
    start[n + 1] = static_cast<std::int32_t>(total);
  }
  Tensor cols = memory.allocate(DType::i32, {total});
  Tensor vals = memory.allocate(DType::f32, {total});
#pragma omp parallel for schedule(static) num_threads(threads)
  for (std::int64_t n = 0; n < rows; ++n) {
    const CodebookRow row = row_of(state, n);
    std::int64_t at = start[n];
    for (std::int64_t k = 0; k < columns; ++k) {
      const auto column = static_cast<std::size_t>(k);
      if (row.mask[column] == 0) continue;
      float w = 0.0F;
      load_elems(weight, n * columns + k, 1, &w);
      const float centroid = row.table[row.codes[column]];
      cols.view().as<std::int32_t>()[at] = static_cast<std::int32_t>(k);
      vals.view().as<float>()[at++] = outlier_value(w, centroid, exactly).value_or(w - centroid);
    }
  }
  return {std::move(state.codes), std::move(state.table), std::move(starts), std::move(cols),
          std::move(vals)};
}

}  // namespace quern
