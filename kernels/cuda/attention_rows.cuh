#pragma once

#include "kernels/cuda/attention_geometry.h"
#include "kernels/cuda/elements.cuh"

namespace quern {

/// Rows of one head of one sequence; row i, a token, begins at data + i * stride.
template <typename T>
struct HeadRows {
  T* data;
  std::int64_t stride;

  __device__ T* row(int i) const { return data + i * stride; }
};

/// What a block works on.
struct BlockPlace {
  int tile;
  int head;
  std::int64_t sequence;

  /// Of a tensor with `heads` heads.
  template <typename T>
  __device__ HeadRows<T> rows(T* tensor, const AttentionGeometry& geometry, int heads,
                              int of_head) const {
    const std::int64_t stride = std::int64_t{heads} * geometry.width;
    return {tensor + sequence * geometry.length * stride + of_head * geometry.width, stride};
  }
};

/// All heads of all sequences of a tile, then those of the next: tiles run from 0.
__device__ inline BlockPlace block_place(const AttentionGeometry& geometry, int heads) {
  const std::int64_t columns = geometry.sequences * heads;
  const std::int64_t column = blockIdx.x % columns;
  return {static_cast<int>(blockIdx.x / columns), static_cast<int>(column % heads), column / heads};
}

/// As block_place with tiles from the last: the queries with the most keys start first.
__device__ inline BlockPlace block_place_reversed(const AttentionGeometry& geometry, int heads,
                                                  int tiles) {
  BlockPlace place = block_place(geometry, heads);
  place.tile = tiles - 1 - place.tile;
  return place;
}

__device__ inline bool is_seen(const AttentionGeometry& geometry, int query, int key) {
  return key <= query && key > query - geometry.window;
}

/// Positions [begin, end).
struct Span {
  int begin;
  int end;
};

/// Keys that one of `count` queries from `first` sees.
__device__ inline Span keys_of_queries(const AttentionGeometry& geometry, int first, int count) {
  return {max(0, first - geometry.window + 1), min(geometry.length, first + count)};
}

/// Queries that see one of `count` keys from `first`.
__device__ inline Span queries_of_keys(const AttentionGeometry& geometry, int first, int count) {
  const int last = min(geometry.length, first + count) - 1;
  return {first, min(geometry.length - last, geometry.window) + last};
}

/// Running maximum and sum of 2^(score - maximum) of one query, in float or double.
template <typename W>
struct SoftmaxRow {
  W largest = -INFINITY;
  W sum = 0;

  /// What was summed so far has to be multiplied by the factor returned. While no key was seen the
  /// maximum is -inf, which must not meet itself in a difference.
  __device__ W raise(W score) {
    const W before = largest;
    largest = fmax(largest, score);
    const W factor = before == -INFINITY ? W{0} : exp2(before - largest);
    sum *= factor;
    return factor;
  }

  /// The weight of a score that is at most `largest`; -inf: not seen.
  __device__ W weight(W score) const { return score == -INFINITY ? W{0} : exp2(score - largest); }

  __device__ W log2_sum() const { return largest + log2(sum); }
};

/// Allows a kernel `bytes` of dynamic shared memory, above the 48 KiB that need no leave.
template <typename Kernel>
cudaError_t allow_shared_memory(Kernel kernel, std::size_t bytes) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(bytes));
}

}  // namespace quern
