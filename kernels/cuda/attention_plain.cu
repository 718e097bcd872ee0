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
__global__ void __launch_bounds__(kPlainThreads, 2) attention_kernel(const Attention<T> task) {
  constexpr int kRows = kPlainRows<kWidth>;
  constexpr int kTile = kPlainTile<kRows>;
  extern __shared__ float memory[];
  float* const q = memory;
  float* const kv = q + kTile * (kWidth + 1);  // keys, then values
  float* const weights = kv + kTile * (kWidth + 1);
  const AttentionGeometry& geometry = task.geometry;
  const BlockPlace place = block_place_reversed(geometry, geometry.heads, task.tiles);
  const int kv_head = place.head / (geometry.heads / geometry.kv_heads);
  const HeadRows<const T> k_rows = place.rows(task.k, geometry, geometry.kv_heads, kv_head);
  const HeadRows<const T> v_rows = place.rows(task.v, geometry, geometry.kv_heads, kv_head);
  const int first = place.tile * kTile;
  const Span keys = keys_of_queries(geometry, first, kTile);

  load_plain<kWidth>(q, place.rows(task.q, geometry, geometry.heads, place.head), first, geometry);
  float out[kRows][kWidth / kPlainEdge] = {};
  SoftmaxRow rows[kRows];
  for (int key = keys.begin; key < keys.end; key += kTile) {
    load_plain<kWidth>(kv, k_rows, key, geometry);
    __syncthreads();  // keys are here
    float scores[kRows][kRows];
    multiply_plain<kWidth>(q, kv, scores);
    score_plain(geometry, first, key, scores);
    for (int i = 0; i < kRows; ++i) {
      const float factor = weigh_plain(scores[i], rows[i]);
      for (float& value : out[i]) value *= factor;
    }
    store_weights(scores, weights);
    __syncthreads();  // keys are free
    load_plain<kWidth>(kv, v_rows, key, geometry);
    __syncthreads();  // values and weights are here
    add_weighted_plain<kWidth>(weights, kv, out);
    __syncthreads();  // values and weights are free
  }
  for (int i = 0; i < kRows; ++i) {
    const float normaliser = 1.0F / reduce_lanes<kPlainEdge>(rows[i].sum, Sum{});
    store_plain<kWidth>(out[i], normaliser,
                        place.rows(task.out, geometry, geometry.heads, place.head),
                        first + thread_y() * kRows + i, geometry);
  }
}

template <typename T, int kWidth>
void launch(CudaContext& context, const AttentionGeometry& geometry,
            const AttentionOperands& operands) {
  constexpr int kTile = kPlainTile<kPlainRows<kWidth>>;
  constexpr std::size_t kBytes = plain_bytes<kWidth>(2);
  const Attention<T> task{
      geometry,           operands.q.as<T>(),   operands.k.as<T>(),
      operands.v.as<T>(), operands.out.as<T>(), (geometry.length + kTile - 1) / kTile};
  check_cuda(allow_shared_memory(attention_kernel<T, kWidth>, kBytes), "attention");
  attention_kernel<T, kWidth><<<attention_blocks(geometry, geometry.heads, task.tiles),
                                kPlainThreads, kBytes, context.stream>>>(task);
  check_launch("attention");
}

}  // namespace

void attend_plain(CudaContext& context, const AttentionGeometry& geometry,
                  const AttentionOperands& operands) {
  with_activation(operands.q.dtype, [&]<typename T>(TypeTag<T>) {
    if (geometry.width <= 64) return launch<T, 64>(context, geometry, operands);
    if (geometry.width <= 128) return launch<T, 128>(context, geometry, operands);
    launch<T, 256>(context, geometry, operands);
  });
}

}  // namespace quern
