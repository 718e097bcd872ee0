#pragma once

#include "kernels/cuda/attention_rows.cuh"
#include "kernels/cuda/reduce.cuh"

namespace quern {

// Tiles of attention in plain float arithmetic, for any activation type: 16 x 16 threads, thread
// (y, x) has rows y * kRows + i of a tile of 16 * kRows, and columns x + 16 * j of what it meets.

inline constexpr int kPlainEdge = 16;
inline constexpr int kPlainThreads = kPlainEdge * kPlainEdge;

template <int kRows>
inline constexpr int kPlainTile = kPlainEdge* kRows;

/// Wide heads have fewer rows in a tile, so that tiles fit the shared memory of every device.
template <int kWidth>
inline constexpr int kPlainRows = kWidth > 128 ? 1 : 2;

__device__ inline int thread_y() {
  return static_cast<int>(threadIdx.x) / kPlainEdge;
}
__device__ inline int thread_x() {
  return static_cast<int>(threadIdx.x) % kPlainEdge;
}

/// Rows [first, first + 16 * kRows) of a head as floats, kWidth + 1 apart; zeros beyond its width
/// and `length`.
template <int kWidth, typename T>
__device__ void load_plain(float* shared, const HeadRows<const T>& rows, int first,
                           const AttentionGeometry& geometry) {
  constexpr int kElems = kPlainTile<kPlainRows<kWidth>> * kWidth;
  for (int i = threadIdx.x; i < kElems; i += kPlainThreads) {
    const int row = i / kWidth;
    const int column = i % kWidth;
    const bool valid = first + row < geometry.length && column < geometry.width;
    shared[row * (kWidth + 1) + column] = valid ? widen(rows.row(first + row)[column]) : 0.0F;
  }
}

/// out[i][j] = a row y * kRows + i times b row x + 16 j.
template <int kWidth, int kRows>
__device__ void multiply_plain(const float* a, const float* b, float (&out)[kRows][kRows]) {
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kRows; ++j) out[i][j] = 0.0F;
  }
  for (int depth = 0; depth < kWidth; ++depth) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const float left = a[(thread_y() * kRows + i) * (kWidth + 1) + depth];
#pragma unroll
      for (int j = 0; j < kRows; ++j) {
        out[i][j] += left * b[(thread_x() + kPlainEdge * j) * (kWidth + 1) + depth];
      }
    }
  }
}

/// Puts the threads' values together as a matrix [16 * kRows, 16 * kRows], one element wider.
template <int kRows>
__device__ void store_weights(const float (&values)[kRows][kRows], float* shared) {
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kRows; ++j) {
      shared[(thread_y() * kRows + i) * (kPlainTile<kRows> + 1) + thread_x() + kPlainEdge * j] =
          values[i][j];
    }
  }
}

/// out[i][c] += weights row y * kRows + i times column x + 16 c of b.
template <int kWidth, int kRows>
__device__ void add_weighted_plain(const float* weights, const float* b,
                                   float (&out)[kRows][kWidth / kPlainEdge]) {
  for (int row = 0; row < kPlainTile<kRows>; ++row) {
    const float* values = b + row * (kWidth + 1) + thread_x();
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const float weight = weights[(thread_y() * kRows + i) * (kPlainTile<kRows> + 1) + row];
#pragma unroll
      for (int c = 0; c < kWidth / kPlainEdge; ++c) out[i][c] += weight * values[kPlainEdge * c];
    }
  }
}

/// Row `row` of a head = values * factor, as far as it exists.
template <int kWidth, typename T>
__device__ void store_plain(const float (&values)[kWidth / kPlainEdge], float factor,
                            const HeadRows<T>& rows, int row, const AttentionGeometry& geometry) {
  if (row >= geometry.length) return;
#pragma unroll
  for (int c = 0; c < kWidth / kPlainEdge; ++c) {
    const int column = thread_x() + kPlainEdge * c;
    if (column < geometry.width) rows.row(row)[column] = narrow<T>(values[c] * factor);
  }
}

/// Products q . k of the thread's queries from `query` on, in units of log2; -inf if not seen.
template <int kRows>
__device__ void score_plain(const AttentionGeometry& geometry, int query, int key,
                            float (&scores)[kRows][kRows]) {
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kRows; ++j) {
      const bool seen =
          is_seen(geometry, query + thread_y() * kRows + i, key + thread_x() + kPlainEdge * j);
      scores[i][j] = seen ? scores[i][j] * geometry.scale_log2 : -INFINITY;
    }
  }
}

/// As weigh_tile: scores of one query become weights, whose sum here is the thread's part.
template <int kRows>
__device__ float weigh_plain(float (&scores)[kRows], SoftmaxRow& row) {
  float largest = scores[0];
  for (int j = 1; j < kRows; ++j) largest = fmaxf(largest, scores[j]);
  const float factor = row.raise(reduce_lanes<kPlainEdge>(largest, Largest{}));
  for (int j = 0; j < kRows; ++j) {
    scores[j] = row.weight(scores[j]);
    row.sum += scores[j];
  }
  return factor;
}

/// Bytes of `tiles` tiles of rows and one of weights.
template <int kWidth>
constexpr std::size_t plain_bytes(int tiles) {
  constexpr int kTile = kPlainTile<kPlainRows<kWidth>>;
  return static_cast<std::size_t>(tiles * kTile * (kWidth + 1) + kTile * (kTile + 1)) *
         sizeof(float);
}

}  // namespace quern
