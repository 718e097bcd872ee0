#pragma once

#include <numbers>
#include <type_traits>

#include "kernels/cuda/attention_rows.cuh"
#include "kernels/cuda/reduce.cuh"

namespace quern {

// Tiles of attention without tensor cores, for any activation type T: W is Wide<T>.

/// How a block divides its work: kEdge x kEdge threads, thread (y, x) has rows y * kRows + i of a
/// tile of kTile, and columns x + kEdge * j of what it meets. The longer rows are, the fewer
/// make a tile, so that four tiles fit the shared memory of every device.
template <typename W, int kWidth>
struct PlainTile {
  static constexpr int kRowBytes = kWidth * sizeof(W);
  static constexpr int kEdge = kRowBytes > 1024 ? 8 : 16;
  static constexpr int kRows = kRowBytes > 512 ? 1 : 2;
  static constexpr int kTile = kEdge * kRows;
  static constexpr int kThreads = kEdge * kEdge;
  static constexpr int kColumns = kWidth / kEdge;  // of a thread
  static constexpr int kStride = kWidth + 1;       // from row to row in shared memory
  static constexpr int kElems = kTile * kStride;
  static constexpr int kWeightStride = kTile + 1;

  /// Bytes of `tiles` tiles of rows and one of weights.
  static constexpr std::size_t bytes(int tiles) {
    return static_cast<std::size_t>(tiles * kElems + kTile * kWeightStride) * sizeof(W);
  }

  __device__ static int thread_y() { return static_cast<int>(threadIdx.x) / kEdge; }
  __device__ static int thread_x() { return static_cast<int>(threadIdx.x) % kEdge; }
  /// Of the tile, the thread's row i.
  __device__ static int row(int i) { return thread_y() * kRows + i; }
  /// The thread's column j.
  __device__ static int column(int j) { return thread_x() + kEdge * j; }
};

/// geometry.scale_log2 to the precision of W.
template <typename W>
__device__ W scale_log2(const AttentionGeometry& geometry) {
  if constexpr (std::is_same_v<W, double>) {
    return geometry.scale * std::numbers::log2e;
  } else {
    return geometry.scale_log2;
  }
}

/// Rows [first, first + kTile) of a head; zeros beyond its width and `length`.
template <int kWidth, typename W, typename T>
__device__ void load_plain(W* shared, const HeadRows<const T>& rows, int first,
                           const AttentionGeometry& geometry) {
  using Tile = PlainTile<W, kWidth>;
  for (int i = threadIdx.x; i < Tile::kTile * kWidth; i += Tile::kThreads) {
    const int row = i / kWidth;
    const int column = i % kWidth;
    const bool valid = first + row < geometry.length && column < geometry.width;
    shared[row * Tile::kStride + column] = valid ? widen(rows.row(first + row)[column]) : W{0};
  }
}

/// out[i][j] = a row row(i) times b row column(j).
template <int kWidth, typename W, int kRows>
__device__ void multiply_plain(const W* a, const W* b, W (&out)[kRows][kRows]) {
  using Tile = PlainTile<W, kWidth>;
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kRows; ++j) out[i][j] = 0;
  }
  for (int depth = 0; depth < kWidth; ++depth) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const W left = a[Tile::row(i) * Tile::kStride + depth];
#pragma unroll
      for (int j = 0; j < kRows; ++j) {
        out[i][j] += left * b[Tile::column(j) * Tile::kStride + depth];
      }
    }
  }
}

/// Puts the threads' values together as a matrix [kTile, kTile], one element wider.
template <int kWidth, typename W, int kRows>
__device__ void store_weights(const W (&values)[kRows][kRows], W* shared) {
  using Tile = PlainTile<W, kWidth>;
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kRows; ++j) {
      shared[Tile::row(i) * Tile::kWeightStride + Tile::column(j)] = values[i][j];
    }
  }
}

/// out[i][c] += weights row row(i) times column column(c) of b.
template <int kWidth, typename W, int kRows, int kColumns>
__device__ void add_weighted_plain(const W* weights, const W* b, W (&out)[kRows][kColumns]) {
  using Tile = PlainTile<W, kWidth>;
  for (int row = 0; row < Tile::kTile; ++row) {
    const W* values = b + row * Tile::kStride + Tile::thread_x();
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const W weight = weights[Tile::row(i) * Tile::kWeightStride + row];
#pragma unroll
      for (int c = 0; c < kColumns; ++c) out[i][c] += weight * values[Tile::kEdge * c];
    }
  }
}

/// Row `row` of a head = values * factor, as far as it exists.
template <int kWidth, typename W, typename T, int kColumns>
__device__ void store_plain(const W (&values)[kColumns], W factor, const HeadRows<T>& rows, int row,
                            const AttentionGeometry& geometry) {
  if (row >= geometry.length) return;
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    const int column = PlainTile<W, kWidth>::column(c);
    if (column < geometry.width) rows.row(row)[column] = narrow<T>(values[c] * factor);
  }
}

/// Products q . k of the thread's queries from `query` on, in units of log2; -inf if not seen.
template <int kWidth, typename W, int kRows>
__device__ void score_plain(const AttentionGeometry& geometry, int query, int key,
                            W (&scores)[kRows][kRows]) {
  using Tile = PlainTile<W, kWidth>;
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kRows; ++j) {
      const bool seen = is_seen(geometry, query + Tile::row(i), key + Tile::column(j));
      scores[i][j] = seen ? scores[i][j] * scale_log2<W>(geometry) : W{-INFINITY};
    }
  }
}

/// As weigh_tile: scores of one query become weights, whose sum here is the thread's part.
template <int kWidth, typename W, int kRows>
__device__ W weigh_plain(W (&scores)[kRows], SoftmaxRow<W>& row) {
  W largest = scores[0];
  for (int j = 1; j < kRows; ++j) largest = fmax(largest, scores[j]);
  const W factor = row.raise(reduce_lanes<PlainTile<W, kWidth>::kEdge>(largest, Largest{}));
  for (int j = 0; j < kRows; ++j) {
    scores[j] = row.weight(scores[j]);
    row.sum += scores[j];
  }
  return factor;
}

/// Calls with the width of the tiles that hold a head as a template argument.
template <typename Call>
void with_plain_width(int width, Call call) {
  if (width <= 64) return call.template operator()<64>();
  if (width <= 128) return call.template operator()<128>();
  call.template operator()<256>();
}

}  // namespace quern
