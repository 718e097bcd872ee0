#include "tests/pipeline/model/table_modules.h"

#include <random>

#include "kernels/core/float16.h"
#include "tests/pipeline/model/packed_bits.h"

namespace quern::test {
namespace {

class Chance {
 public:
  explicit Chance(unsigned seed) : engine_(seed) {}

  unsigned below(unsigned limit) { return static_cast<unsigned>(engine_() % limit); }
  /// In (-1, 1), with all bits of the mantissa in use.
  float value() {
    return static_cast<float>(static_cast<int>(engine_() >> 8) - (1 << 23)) * 0x1p-23F;
  }

 private:
  std::mt19937 engine_;
};

bool is_outlier(const TableCase& made, std::int64_t row, std::int64_t column, Chance& chance) {
  if (!made.sparse || row == 0 || row == made.rows - 1) return false;
  const bool edge = column == 0 || column == made.columns - 1;
  return row == 1 ? edge || chance.below(4) == 0 : chance.below(8) == 0;
}

template <typename T>
HostTensor vector_of(DType dtype, const std::vector<T>& values) {
  return host_tensor(dtype, {static_cast<std::int64_t>(values.size())}, values);
}

}  // namespace

TableModule make_table_module(const TableCase& made) {
  Chance chance(made.seed);
  const std::int64_t entries = std::int64_t{1} << made.bits;
  std::vector<float> table;
  for (std::int64_t i = 0; i < made.rows * entries; ++i) {
    const float value = chance.value();
    table.push_back(made.table_dtype == DType::f16 ? f16_to_float(float_to_f16(value)) : value);
  }
  TableModule result;
  std::vector<std::vector<unsigned>> codes(static_cast<std::size_t>(made.rows));
  std::vector<std::int32_t> rows = {0};
  std::vector<std::int32_t> cols;
  std::vector<float> vals;
  for (std::int64_t n = 0; n < made.rows; ++n) {
    for (std::int64_t k = 0; k < made.columns; ++k) {
      const unsigned code = chance.below(static_cast<unsigned>(entries));
      codes[static_cast<std::size_t>(n)].push_back(code);
      result.weight.push_back(table[static_cast<std::size_t>(n * entries) + code]);
      if (!is_outlier(made, n, k, chance)) continue;
      cols.push_back(static_cast<std::int32_t>(k));
      vals.push_back(8 * chance.value());
      result.weight.back() += vals.back();
    }
    rows.push_back(static_cast<std::int32_t>(cols.size()));
  }
  QuantizedModule& module = result.module;
  module.name = made.name;
  module.out_features = made.rows;
  module.in_features = made.columns;
  module.bits = made.bits;
  module.outliers = static_cast<std::int64_t>(cols.size());
  module.table_dtype = made.table_dtype;
  module.words = packed_columns(codes, made.bits);
  module.values =
      Codebook{host_tensor(DType::f32, {made.rows, entries}, table), vector_of(DType::i32, rows),
               vector_of(DType::i32, cols), vector_of(DType::f32, vals)};
  return result;
}

}  // namespace quern::test
