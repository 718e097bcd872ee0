#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_plain.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/errors.h"

namespace quern {
namespace {

// The steps of attention_gradient.cu without tensor cores.

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

/// What a block has in shared memory; rows are kWidth + 1 apart.
template <int kWidth>
struct PlainTiles {
  static constexpr int kRows = kPlainRows<kWidth>;
  static constexpr int kTile = kPlainTile<kRows>;

  __device__ explicit PlainTiles(float* memory)
      : q(memory),
        dy(q + kTile * (kWidth + 1)),
        k(dy + kTile * (kWidth + 1)),
        v(k + kTile * (kWidth + 1)),
        weights(v + kTile * (kWidth + 1)) {}

  float* q;
  float* dy;
  float* k;
  float* v;
  float* weights;
};

/// Maximum and sum of the weights of the thread's queries over all keys they see.
template <int kWidth, typename T, int kRows>
__device__ void sum_weights(const AttentionGeometry& geometry, const HeadRows<const T>& k_rows,
                            int first, const PlainTiles<kWidth>& tiles, SoftmaxRow (&rows)[kRows]) {
  const Span keys = keys_of_queries(geometry, first, tiles.kTile);
  for (int key = keys.begin; key < keys.end; key += tiles.kTile) {
    load_plain<kWidth>(tiles.k, k_rows, key, geometry);
    __syncthreads();  // keys are here
    float scores[kRows][kRows];
    multiply_plain<kWidth>(tiles.q, tiles.k, scores);
    score_plain(geometry, first, key, scores);
    for (int i = 0; i < kRows; ++i) weigh_plain(scores[i], rows[i]);
    __syncthreads();  // keys are free
  }
  for (int i = 0; i < kRows; ++i) rows[i].sum = reduce_lanes<kPlainEdge>(rows[i].sum, Sum{});
}

/// dy . out of a query; 0 beyond the last. All lanes take part.
template <typename T>
__device__ float row_mean(const HeadRows<const T>& dy, const HeadRows<const T>& out, int query,
                          const AttentionGeometry& geometry) {
  float sum = 0.0F;
  if (query < geometry.length) {
    for (int i = thread_x(); i < geometry.width; i += kPlainEdge) {
      sum += widen(dy.row(query)[i]) * widen(out.row(query)[i]);
    }
  }
  return reduce_lanes<kPlainEdge>(sum, Sum{});
}

/// A block takes a tile of queries of a head through all keys they see, twice.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kPlainThreads, 2)
    query_gradient_kernel(const AttentionBack<T> task) {
  constexpr int kRows = kPlainRows<kWidth>;
  constexpr int kTile = kPlainTile<kRows>;
  extern __shared__ float memory[];
  const PlainTiles<kWidth> tiles(memory);
  const AttentionGeometry& geometry = task.geometry;
  const BlockPlace place = block_place_reversed(geometry, geometry.heads, task.tiles);
  const int kv_head = place.head / (geometry.heads / geometry.kv_heads);
  const HeadRows<const T> k_rows = place.rows(task.k, geometry, geometry.kv_heads, kv_head);
  const HeadRows<const T> v_rows = place.rows(task.v, geometry, geometry.kv_heads, kv_head);
  const HeadRows<const T> dy_rows = place.rows(task.dy, geometry, geometry.heads, place.head);
  const HeadRows<const T> out_rows = place.rows(task.out, geometry, geometry.heads, place.head);
  const int first = place.tile * kTile;

  load_plain<kWidth>(tiles.q, place.rows(task.q, geometry, geometry.heads, place.head), first,
                     geometry);
  load_plain<kWidth>(tiles.dy, dy_rows, first, geometry);
  SoftmaxRow rows[kRows];
  sum_weights<kWidth>(geometry, k_rows, first, tiles, rows);
  float means[kRows];
  for (int i = 0; i < kRows; ++i) {
    const int query = first + thread_y() * kRows + i;
    means[i] = row_mean(dy_rows, out_rows, query, geometry);
    if (thread_x() != 0 || query >= geometry.length) continue;
    const std::int64_t at =
        (place.sequence * geometry.heads + place.head) * geometry.length + query;
    task.log2_sums[at] = rows[i].log2_sum();
    task.means[at] = means[i];
  }

  float dq[kRows][kWidth / kPlainEdge] = {};
  const Span keys = keys_of_queries(geometry, first, kTile);
  for (int key = keys.begin; key < keys.end; key += kTile) {
    load_plain<kWidth>(tiles.k, k_rows, key, geometry);
    load_plain<kWidth>(tiles.v, v_rows, key, geometry);
    __syncthreads();  // k and v are here
    float scores[kRows][kRows];
    multiply_plain<kWidth>(tiles.q, tiles.k, scores);
    score_plain(geometry, first, key, scores);
    float slopes[kRows][kRows];
    multiply_plain<kWidth>(tiles.dy, tiles.v, slopes);
    for (int i = 0; i < kRows; ++i) {
      for (int j = 0; j < kRows; ++j) {
        const float weight = exp2f(scores[i][j] - rows[i].log2_sum());
        slopes[i][j] = weight * (slopes[i][j] - means[i]);
      }
    }
    store_weights(slopes, tiles.weights);
    __syncthreads();  // slopes are here
    add_weighted_plain<kWidth>(tiles.weights, tiles.k, dq);
    __syncthreads();  // everything is free
  }
  for (int i = 0; i < kRows; ++i) {
    store_plain<kWidth>(dq[i], geometry.scale,
                        place.rows(task.dq, geometry, geometry.heads, place.head),
                        first + thread_y() * kRows + i, geometry);
  }
}

/// Products k . q of the thread's keys become weights, products v . dy the gradient of k . q; 0
/// where the key is not seen.
template <int kRows>
__device__ void weigh_queries(const AttentionGeometry& geometry, const float* log2_sums,
                              const float* means, const Span& at, float (&weights)[kRows][kRows],
                              float (&slopes)[kRows][kRows]) {
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kRows; ++j) {
      const int key = at.begin + thread_y() * kRows + i;
      const int query = at.end + thread_x() + kPlainEdge * j;
      const bool seen = query < geometry.length && is_seen(geometry, query, key);
      const float weight =
          seen ? exp2f(weights[i][j] * geometry.scale_log2 - log2_sums[query]) : 0.0F;
      slopes[i][j] = seen ? weight * (slopes[i][j] - means[query]) : 0.0F;
      weights[i][j] = weight;
    }
  }
}

/// A block takes a tile of keys through all queries that see them, head after head of those they
/// serve.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kPlainThreads, 2)
    key_gradient_kernel(const AttentionBack<T> task) {
  constexpr int kRows = kPlainRows<kWidth>;
  constexpr int kTile = kPlainTile<kRows>;
  extern __shared__ float memory[];
  const PlainTiles<kWidth> tiles(memory);
  const AttentionGeometry& geometry = task.geometry;
  const BlockPlace place = block_place(geometry, geometry.kv_heads);
  const int group = geometry.heads / geometry.kv_heads;
  const int first = place.tile * kTile;
  const Span queries = queries_of_keys(geometry, first, kTile);
  load_plain<kWidth>(tiles.k, place.rows(task.k, geometry, geometry.kv_heads, place.head), first,
                     geometry);
  load_plain<kWidth>(tiles.v, place.rows(task.v, geometry, geometry.kv_heads, place.head), first,
                     geometry);
  float dk[kRows][kWidth / kPlainEdge] = {};
  float dv[kRows][kWidth / kPlainEdge] = {};
  for (int head = place.head * group; head < (place.head + 1) * group; ++head) {
    const std::int64_t sums = (place.sequence * geometry.heads + head) * geometry.length;
    for (int query = queries.begin; query < queries.end; query += kTile) {
      load_plain<kWidth>(tiles.q, place.rows(task.q, geometry, geometry.heads, head), query,
                         geometry);
      load_plain<kWidth>(tiles.dy, place.rows(task.dy, geometry, geometry.heads, head), query,
                         geometry);
      __syncthreads();  // q and dy are here
      float weights[kRows][kRows];
      multiply_plain<kWidth>(tiles.k, tiles.q, weights);
      float slopes[kRows][kRows];
      multiply_plain<kWidth>(tiles.v, tiles.dy, slopes);
      weigh_queries(geometry, task.log2_sums + sums, task.means + sums, {first, query}, weights,
                    slopes);
      store_weights(weights, tiles.weights);
      __syncthreads();  // weights are here
      add_weighted_plain<kWidth>(tiles.weights, tiles.dy, dv);
      __syncthreads();  // weights are free
      store_weights(slopes, tiles.weights);
      __syncthreads();  // slopes are here
      add_weighted_plain<kWidth>(tiles.weights, tiles.q, dk);
      __syncthreads();  // everything is free
    }
  }
  for (int i = 0; i < kRows; ++i) {
    const int row = first + thread_y() * kRows + i;
    store_plain<kWidth>(dk[i], geometry.scale,
                        place.rows(task.dk, geometry, geometry.kv_heads, place.head), row,
                        geometry);
    store_plain<kWidth>(dv[i], 1.0F, place.rows(task.dv, geometry, geometry.kv_heads, place.head),
                        row, geometry);
  }
}

template <typename Kernel, typename Task>
void launch_kernel(CudaContext& context, Kernel kernel, const Task& task, int heads,
                   std::size_t bytes) {
  constexpr const char* kName = "gradient of attention";
  check_cuda(allow_shared_memory(kernel, bytes), kName);
  kernel<<<attention_blocks(task.geometry, heads, task.tiles), kPlainThreads, bytes,
           context.stream>>>(task);
  check_launch(kName);
}

template <typename T, int kWidth>
void launch(CudaContext& context, const AttentionGeometry& geometry,
            const AttentionGradientOperands& operands) {
  constexpr int kTile = kPlainTile<kPlainRows<kWidth>>;
  constexpr std::size_t kBytes = plain_bytes<kWidth>(4);
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
                              .tiles = (geometry.length + kTile - 1) / kTile};
  launch_kernel(context, query_gradient_kernel<T, kWidth>, task, geometry.heads, kBytes);
  launch_kernel(context, key_gradient_kernel<T, kWidth>, task, geometry.kv_heads, kBytes);
}

}  // namespace

void attend_back_plain(CudaContext& context, const AttentionGeometry& geometry,
                       const AttentionGradientOperands& operands) {
  with_activation(operands.dy.dtype, [&]<typename T>(TypeTag<T>) {
    if (geometry.width <= 64) return launch<T, 64>(context, geometry, operands);
    if (geometry.width <= 128) return launch<T, 128>(context, geometry, operands);
    launch<T, 256>(context, geometry, operands);
  });
}

}  // namespace quern
