#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "kernels/codebook_solver.h"
#include "kernels/memory.h"

namespace quern {

/// Turns centroids in any order, at most `count` of them, into a table: rounded to the type,
/// ascending, equal ones once, the rest repeating the last. With outliers the one nearest to 0 gets
/// 8 significant bits, or becomes 0 where it is below 2^-18 of the largest: then the differences to
/// 16-bit weights that are not far smaller can be undone in float.
/// places[i]: the code of values[i].
struct TableFormat {
  DType dtype;
  int count;
  std::optional<float> largest_outlier;  ///< magnitude; absent: the row has none
};
void finish_table(std::span<const double> values, const TableFormat& format, float* table,
                  std::uint8_t* places);

/// The largest magnitude under the mask; absent where nothing is masked.
std::optional<float> largest_outlier(std::span<const float> w, std::span<const std::uint8_t> mask);

/// The code nearest to 0, the lower one of two.
std::uint8_t zero_code(const float* table, int count);

/// codes[k] = the centroid nearest to w[k], the lower one of two. `table` as finish_table makes it.
void nearest_codes(std::span<const float> w, const float* table, int count, std::uint8_t* codes);

/// The float v with centroid + v == w in float arithmetic. If there is none: absent, or where
/// `exactly` is false the nearest.
std::optional<float> outlier_value(float w, float centroid, bool exactly);

/// True for types whose outliers must be exact.
bool has_short_weights(const ConstTensorView& weight);

/// A codebook on its way: an outlier's code is the one nearest to 0.
struct CodebookState {
  Tensor codes;  ///< [N, K] u8
  Tensor table;  ///< [N, 2^bits] f32
  Tensor mask;   ///< [N, K] u8: 1 at outliers
};

CodebookState allocate_state(Memory& memory, const Shape& shape, const CodebookSpec& spec);

/// Row n of a state.
struct CodebookRow {
  std::span<std::uint8_t> codes;
  std::span<float> table;
  std::span<std::uint8_t> mask;
};
CodebookRow row_of(CodebookState& state, std::int64_t n);

/// Copies row n.
void copy_row(CodebookState& from, CodebookState& to, std::int64_t n);

/// Masked weights that the table cannot express lose their mask and keep their code; the others get
/// the code nearest to 0.
void settle_outliers(std::span<const float> w, bool exactly, const CodebookRow& row);

/// The state, its masked weights as a sparse matrix.
CodebookTensor assemble(Memory& memory, ConstTensorView weight, CodebookState state, int threads);

}  // namespace quern
