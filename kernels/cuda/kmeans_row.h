#pragma once

#include <cstdint>

#include "kernels/cuda/context.h"

namespace quern::gpu {

/// Rows whose weights are sorted ascending, with what each is worth.
struct SortedRows {
  const std::uint32_t* keys;   ///< [rows, columns] order_key of the weights
  const float* importance;     ///< [rows, columns] > 0
  const std::int32_t* counts;  ///< [rows] weights that count; < 0: the row is left out
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t likely_points;  ///< distinct weights of a row, roughly: only speed depends on it
};

/// Exact weighted k-means of each row: equal weights are merged, then the partition into at most
/// `intervals` of least sum importance (value - mean)^2 by dynamic programming over concave Monge
/// costs (Gronlund et al. 2017) in float64. centroids [rows, intervals] f64, used [rows] i32: how
/// many, or < 0 where the row is left out. Asynchronous.
void cluster_sorted_rows(CudaContext& context, const SortedRows& input, int intervals,
                         double* centroids, std::int32_t* used);

/// Sorts pairs of every row by bits [first_bit, 32) of the key, equal keys as they came. begins and
/// ends [rows] i32 say which elements of a row are sorted. Asynchronous.
struct RowPairs {
  const std::uint32_t* keys;
  const float* values;
  std::uint32_t* sorted_keys;
  float* sorted_values;
  const std::int32_t* begins;
  const std::int32_t* ends;
  std::int64_t rows;
  std::int64_t columns;
};
void sort_rows(CudaContext& context, const RowPairs& pairs, int first_bit);

}  // namespace quern::gpu
