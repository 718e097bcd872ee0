#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/layer_ops.h"

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

/// Keys of a tile: fewer for wide heads, whose sums fill the registers.
template <int kWidth>
inline constexpr int kKeyRows = kWidth > 128 ? 32 : 64;

template <int kWidth>
inline constexpr std::size_t kSharedBytes = (kTileRows + 2 * kKeyRows<kWidth>)*kRowStride<kWidth> *
                                            sizeof(std::uint16_t);

/// A block takes kTileRows queries of a head, a warp 16 of them, through all keys they see.
/// Dao, "FlashAttention-2", algorithm 1. Keys are fetched while values are used, and the reverse.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kTileThreads) attention_kernel(const Attention<T> task) {
  constexpr int kKeys = kKeyRows<kWidth>;
  extern __shared__ __align__(16) unsigned char shared[];
  T* const q = reinterpret_cast<T*>(shared);
  T* const k = q + kTileRows * kRowStride<kWidth>;
  T* const v = k + kKeys * kRowStride<kWidth>;
  const AttentionGeometry& geometry = task.geometry;
  const BlockPlace place = block_place_reversed(geometry, geometry.heads, task.tiles);
  const int kv_head = place.head / (geometry.heads / geometry.kv_heads);
  const HeadRows<const T> k_rows = place.rows(task.k, geometry, geometry.kv_heads, kv_head);
  const HeadRows<const T> v_rows = place.rows(task.v, geometry, geometry.kv_heads, kv_head);
  const int first = place.tile * kTileRows;
  const int warp_row = static_cast<int>(threadIdx.x) / 32 * kWarpRows;
  const Span keys = keys_of_queries(geometry, first, kTileRows);

  load_tile<kTileRows, kWidth>(q, place.rows(task.q, geometry, geometry.heads, place.head), first,
                               geometry);
  load_tile<kKeys, kWidth>(k, k_rows, keys.begin, geometry);
  commit_copies();
  float out[kWidth / 8][4] = {};
  SoftmaxRow<float> rows[2];
  for (int key = keys.begin; key < keys.end; key += kKeys) {
    load_tile<kKeys, kWidth>(v, v_rows, key, geometry);
    commit_copies();
    wait_copies<1>();
    __syncthreads();  // q and k are here
    float scores[kKeys / 8][4] = {};
    multiply_rows<kKeys, kWidth>(q + warp_row * kRowStride<kWidth>, k, scores);
    __syncthreads();  // k is free
    if (key + kKeys < keys.end) load_tile<kKeys, kWidth>(k, k_rows, key + kKeys, geometry);
    commit_copies();
    score_tile<kKeys>(geometry, first + warp_row, key, scores);
    float factors[2];
    weigh_tile<kKeys>(scores, rows, factors);
#pragma unroll
    for (int group = 0; group < kWidth / 8; ++group) {
#pragma unroll
      for (int i = 0; i < 4; ++i) out[group][i] *= factors[i / 2];
    }
    wait_copies<1>();
    __syncthreads();  // v is here
    add_weighted_rows<kKeys, kWidth>(scores, v, out);
    __syncthreads();  // v is free
  }
  float normalisers[2];
  for (int half = 0; half < 2; ++half) {
    normalisers[half] = 1.0F / reduce_lanes<4>(rows[half].sum, Sum{});
  }
  store_tile<kWidth>(out, normalisers, place.rows(task.out, geometry, geometry.heads, place.head),
                     first + warp_row, geometry);
}

template <typename T, int kWidth>
void launch(CudaContext& context, const Attention<T>& task) {
  constexpr std::size_t kBytes = kSharedBytes<kWidth>;
  check_cuda(allow_shared_memory(attention_kernel<T, kWidth>, kBytes), "attention");
  attention_kernel<T, kWidth><<<attention_blocks(task.geometry, task.geometry.heads, task.tiles),
                                kTileThreads, kBytes, context.stream>>>(task);
  check_launch("attention");
}

template <typename T>
void attend(CudaContext& context, const AttentionGeometry& geometry,
            const AttentionOperands& operands) {
  const Attention<T> task{
      geometry,           operands.q.as<T>(),   operands.k.as<T>(),
      operands.v.as<T>(), operands.out.as<T>(), (geometry.length + kTileRows - 1) / kTileRows};
  if (geometry.width <= 32) return launch<T, 32>(context, task);
  if (geometry.width <= 64) return launch<T, 64>(context, task);
  if (geometry.width <= 96) return launch<T, 96>(context, task);
  if (geometry.width <= 128) return launch<T, 128>(context, task);
  launch<T, 256>(context, task);
}

}  // namespace

void CudaLayerOps::do_attention(ConstTensorView q, ConstTensorView k, ConstTensorView v,
                                const AttentionShape& shape, TensorView out) {
  expect_activation(context_, "attention", {q, k, v, out});
  const AttentionGeometry geometry = attention_geometry(shape, q.shape[0]);
  const AttentionOperands operands{q, k, v, out};
  if (!fits_tensor_cores(geometry, {q, k, v, out})) {
    attend_plain(context_, geometry, operands);
  } else if (q.dtype == DType::bf16) {
    attend<__nv_bfloat16>(context_, geometry, operands);
  } else {
    attend<__half>(context_, geometry, operands);
  }
}

}  // namespace quern
