#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/gradient_ops.h"
#include "kernels/cuda/launch.h"

namespace quern {
namespace {

// Dao et al., "FlashAttention", appendix B.2: dS = P (dP - rowsum(dO O)). Weights are recomputed
// from the logarithm of their sum, which the kernel for queries leaves for the one for keys.

/// Queries of a tile in the kernel for keys, whose sums fill the registers.
constexpr int kQueryRows = 32;
/// Wider heads do not fit there.
constexpr int kWidest = 128;

template <typename T>
struct AttentionBack {
  AttentionGeometry geometry;
  const T* q;
  const T* k;
  const T* v;
  const T* out;
  const T* dy;
  T* dq;
  T* dk;
  T* dv;
  float* log2_sums;  ///< [sequences, heads, length]
  float* means;      ///< [sequences, heads, length]: dy . out
  int tiles;
};

/// Sums and means of a head.
__device__ inline std::int64_t head_offset(const AttentionGeometry& geometry,
                                           const BlockPlace& place, int head) {
  return (place.sequence * geometry.heads + head) * geometry.length;
}

/// dy . out of the warp's rows from `first`: lanes along the width. Row r ends up in lane r.
template <typename T>
__device__ float row_means(const HeadRows<const T>& dy, const HeadRows<const T>& out, int first,
                           const AttentionGeometry& geometry) {
  const int lane = threadIdx.x % 32;
  float kept = 0.0F;
  for (int row = 0; row < kWarpRows && first + row < geometry.length; ++row) {
    float sum = 0.0F;
    for (int i = lane; i < geometry.width; i += 32) {
      sum += widen(dy.row(first + row)[i]) * widen(out.row(first + row)[i]);
    }
    sum = reduce_lanes(sum, Sum{});
    if (lane == row) kept = sum;
  }
  return kept;
}

/// log2 of the sums of the lane's two rows, over all keys they see.
template <typename T, int kWidth>
__device__ void sum_weights(const AttentionGeometry& geometry, const HeadRows<const T>& k_rows,
                            int first, const T* q, T* k, float (&log2_sums)[2]) {
  const int warp_row = static_cast<int>(threadIdx.x) / 32 * kWarpRows;
  const Span keys = keys_of_queries(geometry, first, kTileRows);
  SoftmaxRow<float> rows[2];
  for (int key = keys.begin; key < keys.end; key += kTileRows) {
    load_tile<kTileRows, kWidth>(k, k_rows, key, geometry);
    commit_copies();
    wait_copies<0>();
    __syncthreads();  // k is here
    float scores[kTileRows / 8][4] = {};
    multiply_rows<kTileRows, kWidth>(q + warp_row * kRowStride<kWidth>, k, scores);
    score_tile<kTileRows>(geometry, first + warp_row, key, scores);
    float factors[2];
    weigh_tile<kTileRows>(scores, rows, factors);
    __syncthreads();  // k is free
  }
  for (int half = 0; half < 2; ++half) {
    rows[half].sum = reduce_lanes<4>(rows[half].sum, Sum{});
    log2_sums[half] = rows[half].log2_sum();
  }
}

/// A block takes kTileRows queries of a head, a warp 16 of them, through all keys they see: once
/// for the sums of their weights, once for their gradient.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kTileThreads) query_gradient_kernel(const AttentionBack<T> task) {
  constexpr int kTileElems = kTileRows * kRowStride<kWidth>;
  extern __shared__ __align__(16) unsigned char shared[];
  T* const q = reinterpret_cast<T*>(shared);
  T* const dy = q + kTileElems;
  T* const k = dy + kTileElems;
  T* const v = k + kTileElems;
  const AttentionGeometry& geometry = task.geometry;
  const BlockPlace place = block_place_reversed(geometry, geometry.heads, task.tiles);
  const int kv_head = place.head / (geometry.heads / geometry.kv_heads);
  const HeadRows<const T> k_rows = place.rows(task.k, geometry, geometry.kv_heads, kv_head);
  const HeadRows<const T> v_rows = place.rows(task.v, geometry, geometry.kv_heads, kv_head);
  const HeadRows<const T> dy_rows = place.rows(task.dy, geometry, geometry.heads, place.head);
  const int first = place.tile * kTileRows;
  const int warp_row = static_cast<int>(threadIdx.x) / 32 * kWarpRows;
  const int lane = threadIdx.x % 32;

  load_tile<kTileRows, kWidth>(q, place.rows(task.q, geometry, geometry.heads, place.head), first,
                               geometry);
  load_tile<kTileRows, kWidth>(dy, dy_rows, first, geometry);
  float log2_sums[2];
  sum_weights<T, kWidth>(geometry, k_rows, first, q, k, log2_sums);
  const float mean = row_means(dy_rows, place.rows(task.out, geometry, geometry.heads, place.head),
                               first + warp_row, geometry);
  float means[2];
  for (int half = 0; half < 2; ++half) {
    means[half] = __shfl_sync(kWholeWarp, mean, lane_row(half));
    const int query = first + warp_row + lane_row(half);
    if (lane % 4 != 0 || query >= geometry.length) continue;
    const std::int64_t at = head_offset(geometry, place, place.head) + query;
    task.log2_sums[at] = log2_sums[half];
    task.means[at] = means[half];
  }

  float dq[kWidth / 8][4] = {};
  const Span keys = keys_of_queries(geometry, first, kTileRows);
  for (int key = keys.begin; key < keys.end; key += kTileRows) {
    load_tile<kTileRows, kWidth>(k, k_rows, key, geometry);
    load_tile<kTileRows, kWidth>(v, v_rows, key, geometry);
    commit_copies();
    wait_copies<0>();
    __syncthreads();  // k and v are here
    float scores[kTileRows / 8][4] = {};
    multiply_rows<kTileRows, kWidth>(q + warp_row * kRowStride<kWidth>, k, scores);
    score_tile<kTileRows>(geometry, first + warp_row, key, scores);
    float slopes[kTileRows / 8][4] = {};
    multiply_rows<kTileRows, kWidth>(dy + warp_row * kRowStride<kWidth>, v, slopes);
#pragma unroll
    for (int group = 0; group < kTileRows / 8; ++group) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float weight = exp2f(scores[group][i] - log2_sums[i / 2]);
        slopes[group][i] = weight * (slopes[group][i] - means[i / 2]);
      }
    }
    add_weighted_rows<kTileRows, kWidth>(slopes, k, dq);
    __syncthreads();  // k and v are free
  }
  const float factors[2] = {geometry.scale, geometry.scale};
  store_tile<kWidth>(dq, factors, place.rows(task.dq, geometry, geometry.heads, place.head),
                     first + warp_row, geometry);
}

/// Products k . q of a lane's keys become weights of the queries from `query` on; 0 if not seen.
/// slopes: products v . dy become the gradient of the products k . q.
__device__ inline void weigh_queries(const AttentionGeometry& geometry, const float* log2_sums,
                                     const float* means, int key, int query,
                                     float (&weights)[kQueryRows / 8][4],
                                     float (&slopes)[kQueryRows / 8][4]) {
#pragma unroll
  for (int group = 0; group < kQueryRows / 8; ++group) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = query + lane_column(group, i);
      const bool seen = at < geometry.length && is_seen(geometry, at, key + lane_row(i / 2));
      const float weight =
          seen ? exp2f(weights[group][i] * geometry.scale_log2 - log2_sums[at]) : 0.0F;
      slopes[group][i] = seen ? weight * (slopes[group][i] - means[at]) : 0.0F;
      weights[group][i] = weight;
    }
  }
}

/// A block takes kTileRows keys of a head of keys, a warp 16 of them, through all queries that see
/// them, head after head of those they serve. Queries of the next step are fetched meanwhile.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kTileThreads) key_gradient_kernel(const AttentionBack<T> task) {
  constexpr int kTileElems = kTileRows * kRowStride<kWidth>;
  constexpr int kQueryElems = kQueryRows * kRowStride<kWidth>;
  extern __shared__ __align__(16) unsigned char shared[];
  T* const k = reinterpret_cast<T*>(shared);
  T* const v = k + kTileElems;
  T* const q = v + kTileElems;        // two stages
  T* const dy = q + 2 * kQueryElems;  // two stages
  const AttentionGeometry& geometry = task.geometry;
  const BlockPlace place = block_place(geometry, geometry.kv_heads);
  const int group = geometry.heads / geometry.kv_heads;
  const int first = place.tile * kTileRows;
  const int warp_row = static_cast<int>(threadIdx.x) / 32 * kWarpRows;
  const Span queries = queries_of_keys(geometry, first, kTileRows);
  const int tiles = (queries.end - queries.begin + kQueryRows - 1) / kQueryRows;
  const int steps = group * tiles;
  const auto fetch = [&](int step) {
    const int head = place.head * group + step / tiles;
    const int query = queries.begin + step % tiles * kQueryRows;
    load_tile<kQueryRows, kWidth>(q + step % 2 * kQueryElems,
                                  place.rows(task.q, geometry, geometry.heads, head), query,
                                  geometry);
    load_tile<kQueryRows, kWidth>(dy + step % 2 * kQueryElems,
                                  place.rows(task.dy, geometry, geometry.heads, head), query,
                                  geometry);
  };

  load_tile<kTileRows, kWidth>(k, place.rows(task.k, geometry, geometry.kv_heads, place.head),
                               first, geometry);
  load_tile<kTileRows, kWidth>(v, place.rows(task.v, geometry, geometry.kv_heads, place.head),
                               first, geometry);
  fetch(0);
  commit_copies();
  float dk[kWidth / 8][4] = {};
  float dv[kWidth / 8][4] = {};
  for (int step = 0; step < steps; ++step) {
    if (step + 1 < steps) fetch(step + 1);
    commit_copies();
    wait_copies<1>();
    __syncthreads();  // q and dy of this step are here
    const T* const step_q = q + step % 2 * kQueryElems;
    const T* const step_dy = dy + step % 2 * kQueryElems;
    float weights[kQueryRows / 8][4] = {};
    multiply_rows<kQueryRows, kWidth>(k + warp_row * kRowStride<kWidth>, step_q, weights);
    float slopes[kQueryRows / 8][4] = {};
    multiply_rows<kQueryRows, kWidth>(v + warp_row * kRowStride<kWidth>, step_dy, slopes);
    const std::int64_t sums = head_offset(geometry, place, place.head * group + step / tiles);
    weigh_queries(geometry, task.log2_sums + sums, task.means + sums, first + warp_row,
                  queries.begin + step % tiles * kQueryRows, weights, slopes);
    add_weighted_rows<kQueryRows, kWidth>(weights, step_dy, dv);
    add_weighted_rows<kQueryRows, kWidth>(slopes, step_q, dk);
    __syncthreads();  // q and dy of this step are free
  }
  const float scales[2] = {geometry.scale, geometry.scale};
  const float ones[2] = {1.0F, 1.0F};
  store_tile<kWidth>(dk, scales, place.rows(task.dk, geometry, geometry.kv_heads, place.head),
                     first + warp_row, geometry);
  store_tile<kWidth>(dv, ones, place.rows(task.dv, geometry, geometry.kv_heads, place.head),
                     first + warp_row, geometry);
}

template <typename T, int kWidth>
void launch(CudaContext& context, const AttentionBack<T>& task) {
  constexpr std::size_t kRowBytes = kRowStride<kWidth> * sizeof(T);
  constexpr std::size_t kForQueries = 4 * kTileRows * kRowBytes;
  constexpr std::size_t kForKeys = (2 * kTileRows + 4 * kQueryRows) * kRowBytes;
  constexpr const char* kName = "gradient of attention";
  const AttentionGeometry& geometry = task.geometry;
  check_cuda(allow_shared_memory(query_gradient_kernel<T, kWidth>, kForQueries), kName);
  query_gradient_kernel<T, kWidth><<<attention_blocks(geometry, geometry.heads, task.tiles),
                                     kTileThreads, kForQueries, context.stream>>>(task);
  check_launch(kName);
  check_cuda(allow_shared_memory(key_gradient_kernel<T, kWidth>, kForKeys), kName);
  key_gradient_kernel<T, kWidth><<<attention_blocks(geometry, geometry.kv_heads, task.tiles),
                                   kTileThreads, kForKeys, context.stream>>>(task);
  check_launch(kName);
}

template <typename T>
void attend_back(CudaContext& context, const AttentionGeometry& geometry,
                 const AttentionGradientOperands& operands) {
  Tensor rows = context.memory.allocate(DType::f32,
                                        {2, geometry.sequences * geometry.heads * geometry.length});
  const auto& [forward, dy, gradient] = operands;
  const AttentionBack<T> task{.geometry = geometry,
                              .q = forward.q.as<T>(),
                              .k = forward.k.as<T>(),
                              .v = forward.v.as<T>(),
                              .out = forward.out.as<T>(),
                              .dy = dy.as<T>(),
                              .dq = gradient.q.as<T>(),
                              .dk = gradient.k.as<T>(),
                              .dv = gradient.v.as<T>(),
                              .log2_sums = rows.view().rows(0, 1).as<float>(),
                              .means = rows.view().rows(1, 1).as<float>(),
                              .tiles = (geometry.length + kTileRows - 1) / kTileRows};
  if (geometry.width <= 32) return launch<T, 32>(context, task);
  if (geometry.width <= 64) return launch<T, 64>(context, task);
  if (geometry.width <= 96) return launch<T, 96>(context, task);
  launch<T, 128>(context, task);
}

}  // namespace

void CudaGradientOps::do_attention(const AttentionForward& forward, ConstTensorView dy,
                                   const AttentionShape& shape, const AttentionGradient& gradient) {
  const auto& [q, k, v, out] = forward;
  expect_activation(context_, "gradient of attention", {q, dy});
  const AttentionGeometry geometry = attention_geometry(shape, q.shape[0]);
  const AttentionGradientOperands operands{forward, dy, gradient};
  if (geometry.width > kWidest ||
      !fits_tensor_cores(geometry, {q, k, v, out, dy, gradient.q, gradient.k, gradient.v})) {
    attend_back_plain(context_, geometry, operands);
  } else if (q.dtype == DType::bf16) {
    attend_back<__nv_bfloat16>(context_, geometry, operands);
  } else {
    attend_back<__half>(context_, geometry, operands);
  }
}

}  // namespace quern
