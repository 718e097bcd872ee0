#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/row_kernels.h"
#include "kernels/layer_ops.h"

namespace quern {

/// Queries of one head that share a product with all keys any of them sees.
inline constexpr std::int64_t kAttentionQueries = 128;

/// Positions within a sequence.
struct QueryBlock {
  std::int64_t first, count;  ///< queries
  std::int64_t first_key;     ///< the oldest key that one of them sees

  std::int64_t keys() const { return first + count - first_key; }
};

inline std::int64_t query_block_count(const AttentionShape& shape) {
  return (shape.sequence_length + kAttentionQueries - 1) / kAttentionQueries;
}

inline std::int64_t oldest_key(const AttentionShape& shape, std::int64_t query) {
  return shape.window == 0 ? 0 : std::max<std::int64_t>(0, query - shape.window + 1);
}

inline QueryBlock query_block(const AttentionShape& shape, std::int64_t index) {
  const std::int64_t first = index * kAttentionQueries;
  return {first, std::min(kAttentionQueries, shape.sequence_length - first),
          oldest_key(shape, first)};
}

/// Elements from one row of scores to the next: not a power of two, which would crowd the cache.
inline std::int64_t score_stride(const AttentionShape& shape) {
  const std::int64_t keys =
      shape.window == 0 ? shape.sequence_length
                        : std::min(shape.sequence_length, shape.window + kAttentionQueries - 1);
  return (keys + 15) / 16 * 16 + 16;
}

/// Columns of a block's scores that its query number `i` sees.
struct SeenKeys {
  std::int64_t begin, end;
};

inline SeenKeys seen_keys(const AttentionShape& shape, const QueryBlock& block, std::int64_t i) {
  const std::int64_t query = block.first + i;
  return {oldest_key(shape, query) - block.first_key, query + 1 - block.first_key};
}

template <typename T>
void clear_unseen(T* row, std::int64_t keys, const SeenKeys& seen) {
  std::fill(row, row + seen.begin, T{0});
  std::fill(row + seen.end, row + keys, T{0});
}

/// A row of scores becomes exp(score - max) where the query sees the key, 0 elsewhere; returns the
/// sum.
template <typename T>
double weigh_keys(T* scores, std::int64_t keys, const SeenKeys& seen) {
  clear_unseen(scores, keys, seen);
  T* begin = scores + seen.begin;
  const std::int64_t count = seen.end - seen.begin;
  return exp_row(begin, count, row_max(begin, count), begin);
}

}  // namespace quern
