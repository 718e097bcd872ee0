#pragma once

#include "kernels/cuda/attention_rows.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/reduce.cuh"

namespace quern {

// Tiles of attention on tensor cores: kTileWarps warps, each with kWarpRows rows of the tile, which
// never meet. T is a 16-bit type, kWidth the head's width filled up with zeros to a multiple of 32.

inline constexpr int kTileWarps = 4;
inline constexpr int kTileThreads = kTileWarps * 32;
inline constexpr int kWarpRows = 16;
inline constexpr int kTileRows = kTileWarps * kWarpRows;

/// Elements from one row in shared memory to the next: an odd multiple of 16 bytes, so that eight
/// rows lie in different banks.
template <int kWidth>
inline constexpr int kRowStride = kWidth + 8;

/// Of the rows that a lane holds in a product's result: warp row g + 8 * half.
__device__ inline int lane_row(int half) {
  return static_cast<int>(threadIdx.x % 32) / 4 + 8 * half;
}

/// Column of element `i` of group `group` of a result, see multiply_add.
__device__ inline int lane_column(int group, int i) {
  return group * 8 + static_cast<int>(threadIdx.x % 4) * 2 + i % 2;
}

/// Starts copying rows [first, first + kRows) of a head; zeros beyond its width and `length`.
template <int kRows, int kWidth, typename T>
__device__ void load_tile(T* shared, const HeadRows<const T>& rows, int first,
                          const AttentionGeometry& geometry) {
  constexpr int kPieces = kWidth / 8;
  for (int piece = threadIdx.x; piece < kRows * kPieces; piece += kTileThreads) {
    const int row = piece / kPieces;
    const int column = piece % kPieces * 8;
    const bool valid = first + row < geometry.length && column < geometry.width;
    copy_async(shared + row * kRowStride<kWidth> + column,
               valid ? rows.row(first + row) + column : rows.data, valid);
  }
}

/// out += a b^T over the width; a [16, kWidth], b [kColumns, kWidth] in shared memory.
template <int kColumns, int kWidth, typename T>
__device__ void multiply_rows(const T* a, const T* b, float (&out)[kColumns / 8][4]) {
  const int lane = threadIdx.x % 32;
  const T* a_row = a + lane % 16 * kRowStride<kWidth> + lane / 16 * 8;
  const T* b_row = b + (lane % 8 + lane / 16 * 8) * kRowStride<kWidth> + lane / 8 % 2 * 8;
#pragma unroll
  for (int depth = 0; depth < kWidth; depth += 16) {
    std::uint32_t left[4];
    load_matrices(a_row + depth, left);
#pragma unroll
    for (int column = 0; column < kColumns; column += 16) {
      std::uint32_t right[4];
      load_matrices(b_row + column * kRowStride<kWidth> + depth, right);
      multiply_add<T>(left, right[0], right[1], out[column / 8]);
      multiply_add<T>(left, right[2], right[3], out[column / 8 + 1]);
    }
  }
}

/// out [16, kWidth] += weights [16, kRows] b, the weights as multiply_rows leaves them, rounded to
/// T; b [kRows, kWidth] in shared memory.
template <int kRows, int kWidth, typename T>
__device__ void add_weighted_rows(const float (&weights)[kRows / 8][4], const T* b,
                                  float (&out)[kWidth / 8][4]) {
  const int lane = threadIdx.x % 32;
  const T* b_row = b + lane % 16 * kRowStride<kWidth> + lane / 16 * 8;
#pragma unroll
  for (int row = 0; row < kRows; row += 16) {
    const auto& low = weights[row / 8];
    const auto& high = weights[row / 8 + 1];
    const std::uint32_t left[4] = {pack_pair<T>(low[0], low[1]), pack_pair<T>(low[2], low[3]),
                                   pack_pair<T>(high[0], high[1]), pack_pair<T>(high[2], high[3])};
#pragma unroll
    for (int column = 0; column < kWidth; column += 16) {
      std::uint32_t right[4];
      load_transposed(b_row + row * kRowStride<kWidth> + column, right);
      multiply_add<T>(left, right[0], right[1], out[column / 8]);
      multiply_add<T>(left, right[2], right[3], out[column / 8 + 1]);
    }
  }
}

/// Products q . k of a lane's queries, the first one of the warp at `query`, become scores in units
/// of log2; -inf where the query does not see the key.
template <int kKeys>
__device__ void score_tile(const AttentionGeometry& geometry, int query, int key,
                           float (&scores)[kKeys / 8][4]) {
  const bool all_seen = key + kKeys - 1 <= query && key > query + kWarpRows - 1 - geometry.window;
#pragma unroll
  for (int group = 0; group < kKeys / 8; ++group) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool seen =
          all_seen || is_seen(geometry, query + lane_row(i / 2), key + lane_column(group, i));
      scores[group][i] = seen ? scores[group][i] * geometry.scale_log2 : -INFINITY;
    }
  }
}

/// Takes up the scores of another tile of keys: they become weights relative to the new maximum.
/// `rows` are the lane's two; their sums are the lane's own parts. Factors: see SoftmaxRow::raise.
template <int kKeys>
__device__ void weigh_tile(float (&scores)[kKeys / 8][4], SoftmaxRow<float> (&rows)[2],
                           float (&factors)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float largest = -INFINITY;
#pragma unroll
    for (int group = 0; group < kKeys / 8; ++group) {
      largest = fmaxf(largest, fmaxf(scores[group][2 * half], scores[group][2 * half + 1]));
    }
    factors[half] = rows[half].raise(reduce_lanes<4>(largest, Largest{}));
#pragma unroll
    for (int group = 0; group < kKeys / 8; ++group) {
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        scores[group][i] = rows[half].weight(scores[group][i]);
        rows[half].sum += scores[group][i];
      }
    }
  }
}

/// Rows of a lane, each times its factor, into rows first + .. of a head.
template <int kWidth, typename T>
__device__ void store_tile(const float (&values)[kWidth / 8][4], const float (&factors)[2],
                           const HeadRows<T>& rows, int first, const AttentionGeometry& geometry) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first + lane_row(half);
    if (row >= geometry.length) continue;
#pragma unroll
    for (int group = 0; group < kWidth / 8; ++group) {
      const int column = lane_column(group, 0);
      if (column >= geometry.width) continue;
      *reinterpret_cast<std::uint32_t*>(rows.row(row) + column) = pack_pair<T>(
          values[group][2 * half] * factors[half], values[group][2 * half + 1] * factors[half]);
    }
  }
}

}  // namespace quern
