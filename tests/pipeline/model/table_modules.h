#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "pipeline/quantized_module.h"

namespace quern::test {

/// What a module with tables is made of.
struct TableCase {
  std::string name = "m";
  std::int64_t rows = 5;
  std::int64_t columns = 64;
  int bits = 4;
  DType table_dtype = DType::f32;
  bool sparse = true;
  unsigned seed = 1;
};

/// A module, and its weight [N, K] f32 as computed from the codes before they were packed.
struct TableModule {
  QuantizedModule module;
  std::vector<float> weight;
};

/// Random codes, centroids and outliers; the first and the last row have no outliers, the second
/// begins and ends with one.
TableModule make_table_module(const TableCase& made);

}  // namespace quern::test
