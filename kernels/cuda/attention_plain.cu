#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_plain.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/errors.h"

namespace quern {
namespace {

template <typename T>
struct Attention {
  AttentionGeometry geometry;
  const T* q;
  const T* k;
  const T* v;
  T* out;
  int tiles;
};

/// A block takes a tile of queries of a head through all keys they see.
template <typename T, int kWidth>
__global__ void __launch_bounds__(PlainTile<Wide<T>, kWidth>::kThreads, 2)
    attention_kernel(const Attention<T> task) {
  using W = Wide<T>;
  using Tile = PlainTile<W, kWidth>;
  constexpr int kRows = Tile::kRows;
  constexpr int kTile = Tile::kTile;
  extern __shared__ __align__(16) unsigned char memory[];
  W* const q = reinterpret_cast<W*>(memory);
  W* const kv = q + Tile::kElems;  // keys, then values
  W* const weights = kv + Tile::kElems;
  const AttentionGeometry& geometry = task.geometry;
  const BlockPlace place = block_place_reversed(geometry, geometry.heads, task.tiles);
  const int kv_head = place.head / (geometry.heads / geometry.kv_heads);
  const HeadRows<const T> k_rows = place.rows(task.k, geometry, geometry.kv_heads, kv_head);
  const HeadRows<const T> v_rows = place.rows(task.v, geometry, geometry.kv_heads, kv_head);
  const int first = place.tile * kTile;
  const Span keys = keys_of_queries(geometry, first, kTile);

  load_plain<kWidth>(q, place.rows(task.q, geometry, geometry.heads, place.head), first, geometry);
  W out[kRows][Tile::kColumns] = {};
  SoftmaxRow<W> rows[kRows];
  for (int key = keys.begin; key < keys.end; key += kTile) {
    load_plain<kWidth>(kv, k_rows, key, geometry);
    __syncthreads();  // keys are here
    W scores[kRows][kRows];
    multiply_plain<kWidth>(q, kv, scores);
    score_plain<kWidth>(geometry, first, key, scores);
    for (int i = 0; i < kRows; ++i) {
      const W factor = weigh_plain<kWidth>(scores[i], rows[i]);
      for (W& value : out[i]) value *= factor;
    }
    store_weights<kWidth>(scores, weights);
    __syncthreads();  // keys are free
    load_plain<kWidth>(kv, v_rows, key, geometry);
    __syncthreads();  // values and weights are here
    add_weighted_plain<kWidth>(weights, kv, out);
    __syncthreads();  // values and weights are free
  }
  for (int i = 0; i < kRows; ++i) {
    const W normaliser = W{1} / reduce_lanes<Tile::kEdge>(rows[i].sum, Sum{});
    store_plain<kWidth>(out[i], normaliser,
                        place.rows(task.out, geometry, geometry.heads, place.head),
                        first + Tile::row(i), geometry);
  }
}

template <typename T, int kWidth>
void launch(CudaContext& context, const AttentionGeometry& geometry,
            const AttentionOperands& operands) {
  using Tile = PlainTile<Wide<T>, kWidth>;
  constexpr std::size_t kBytes = Tile::bytes(2);
  const Attention<T> task{
      geometry,           operands.q.as<T>(),   operands.k.as<T>(),
      operands.v.as<T>(), operands.out.as<T>(), (geometry.length + Tile::kTile - 1) / Tile::kTile};
  check_cuda(allow_shared_memory(attention_kernel<T, kWidth>, kBytes), "attention");
  attention_kernel<T, kWidth><<<attention_blocks(geometry, geometry.heads, task.tiles),
                                Tile::kThreads, kBytes, context.stream>>>(task);
  check_launch("attention");
}

}  // namespace

void attend_plain(CudaContext& context, const AttentionGeometry& geometry,
                  const AttentionOperands& operands) {
  with_plain_float(operands.q.dtype, [&]<typename T>(TypeTag<T>) {
    with_plain_width(geometry.width,
                     [&]<int kWidth>() { launch<T, kWidth>(context, geometry, operands); });
  });
}

}  // namespace quern
