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
  Wide<T>* log2_sums;  ///< [sequences, heads, length]
  Wide<T>* means;      ///< [sequences, heads, length]: dy . out
  int tiles;
};

/// What a block has in shared memory.
template <typename W, int kWidth>
struct PlainTiles {
  static constexpr int kElems = PlainTile<W, kWidth>::kElems;

  __device__ explicit PlainTiles(unsigned char* memory)
      : q(reinterpret_cast<W*>(memory)),
        dy(q + kElems),
        k(dy + kElems),
        v(k + kElems),
        weights(v + kElems) {}

  W* q;
  W* dy;
  W* k;
  W* v;
  W* weights;
};

/// Maximum and sum of the weights of the thread's queries over all keys they see.
template <int kWidth, typename W, typename T, int kRows>
__device__ void sum_weights(const AttentionGeometry& geometry, const HeadRows<const T>& k_rows,
                            int first, const PlainTiles<W, kWidth>& tiles,
                            SoftmaxRow<W> (&rows)[kRows]) {
  using Tile = PlainTile<W, kWidth>;
  const Span keys = keys_of_queries(geometry, first, Tile::kTile);
  for (int key = keys.begin; key < keys.end; key += Tile::kTile) {
    load_plain<kWidth>(tiles.k, k_rows, key, geometry);
    __syncthreads();  // keys are here
    W scores[kRows][kRows];
    multiply_plain<kWidth>(tiles.q, tiles.k, scores);
    score_plain<kWidth>(geometry, first, key, scores);
    for (int i = 0; i < kRows; ++i) weigh_plain<kWidth>(scores[i], rows[i]);
    __syncthreads();  // keys are free
  }
  for (int i = 0; i < kRows; ++i) rows[i].sum = reduce_lanes<Tile::kEdge>(rows[i].sum, Sum{});
}

/// dy . out of a query; 0 beyond the last. All lanes take part.
template <int kWidth, typename T>
__device__ Wide<T> row_mean(const HeadRows<const T>& dy, const HeadRows<const T>& out, int query,
                            const AttentionGeometry& geometry) {
  using Tile = PlainTile<Wide<T>, kWidth>;
  Wide<T> sum = 0;
  if (query < geometry.length) {
    for (int i = Tile::thread_x(); i < geometry.width; i += Tile::kEdge) {
      sum += widen(dy.row(query)[i]) * widen(out.row(query)[i]);
    }
  }
  return reduce_lanes<Tile::kEdge>(sum, Sum{});
}

/// A block takes a tile of queries of a head through all keys they see, twice.
template <typename T, int kWidth>
__global__ void __launch_bounds__(PlainTile<Wide<T>, kWidth>::kThreads, 2)
    query_gradient_kernel(const AttentionBack<T> task) {
  using W = Wide<T>;
  using Tile = PlainTile<W, kWidth>;
  constexpr int kRows = Tile::kRows;
  constexpr int kTile = Tile::kTile;
  extern __shared__ __align__(16) unsigned char memory[];
  const PlainTiles<W, kWidth> tiles(memory);
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
  SoftmaxRow<W> rows[kRows];
  sum_weights<kWidth>(geometry, k_rows, first, tiles, rows);
  W means[kRows];
  for (int i = 0; i < kRows; ++i) {
    const int query = first + Tile::row(i);
    means[i] = row_mean<kWidth>(dy_rows, out_rows, query, geometry);
    if (Tile::thread_x() != 0 || query >= geometry.length) continue;
    const std::int64_t at =
        (place.sequence * geometry.heads + place.head) * geometry.length + query;
    task.log2_sums[at] = rows[i].log2_sum();
    task.means[at] = means[i];
  }

  W dq[kRows][Tile::kColumns] = {};
  const Span keys = keys_of_queries(geometry, first, kTile);
  for (int key = keys.begin; key < keys.end; key += kTile) {
    load_plain<kWidth>(tiles.k, k_rows, key, geometry);
    load_plain<kWidth>(tiles.v, v_rows, key, geometry);
    __syncthreads();  // k and v are here
    W scores[kRows][kRows];
    multiply_plain<kWidth>(tiles.q, tiles.k, scores);
    score_plain<kWidth>(geometry, first, key, scores);
    W slopes[kRows][kRows];
    multiply_plain<kWidth>(tiles.dy, tiles.v, slopes);
    for (int i = 0; i < kRows; ++i) {
      for (int j = 0; j < kRows; ++j) {
        const W weight = exp2(scores[i][j] - rows[i].log2_sum());
        slopes[i][j] = weight * (slopes[i][j] - means[i]);
      }
    }
    store_weights<kWidth>(slopes, tiles.weights);
    __syncthreads();  // slopes are here
    add_weighted_plain<kWidth>(tiles.weights, tiles.k, dq);
    __syncthreads();  // everything is free
  }
  for (int i = 0; i < kRows; ++i) {
    store_plain<kWidth>(dq[i], W{geometry.scale},
                        place.rows(task.dq, geometry, geometry.heads, place.head),
                        first + Tile::row(i), geometry);
  }
}

/// Products k . q of the thread's keys become weights, products v . dy the gradient of k . q; 0
/// where the key is not seen.
template <int kWidth, typename W, int kRows>
__device__ void weigh_queries(const AttentionGeometry& geometry, const W* log2_sums, const W* means,
                              const Span& at, W (&weights)[kRows][kRows],
                              W (&slopes)[kRows][kRows]) {
  using Tile = PlainTile<W, kWidth>;
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kRows; ++j) {
      const int key = at.begin + Tile::row(i);
      const int query = at.end + Tile::column(j);
      const bool seen = query < geometry.length && is_seen(geometry, query, key);
      const W weight =
          seen ? exp2(weights[i][j] * scale_log2<W>(geometry) - log2_sums[query]) : W{0};
      slopes[i][j] = seen ? weight * (slopes[i][j] - means[query]) : W{0};
      weights[i][j] = weight;
    }
  }
}

/// A block takes a tile of keys through all queries that see them, head after head of those they
/// serve.
template <typename T, int kWidth>
__global__ void __launch_bounds__(PlainTile<Wide<T>, kWidth>::kThreads, 2)
    key_gradient_kernel(const AttentionBack<T> task) {
  using W = Wide<T>;
  using Tile = PlainTile<W, kWidth>;
  constexpr int kRows = Tile::kRows;
  constexpr int kTile = Tile::kTile;
  extern __shared__ __align__(16) unsigned char memory[];
  const PlainTiles<W, kWidth> tiles(memory);
  const AttentionGeometry& geometry = task.geometry;
  const BlockPlace place = block_place(geometry, geometry.kv_heads);
  const int group = geometry.heads / geometry.kv_heads;
  const int first = place.tile * kTile;
  const Span queries = queries_of_keys(geometry, first, kTile);
  load_plain<kWidth>(tiles.k, place.rows(task.k, geometry, geometry.kv_heads, place.head), first,
                     geometry);
  load_plain<kWidth>(tiles.v, place.rows(task.v, geometry, geometry.kv_heads, place.head), first,
                     geometry);
  W dk[kRows][Tile::kColumns] = {};
  W dv[kRows][Tile::kColumns] = {};
  for (int head = place.head * group; head < (place.head + 1) * group; ++head) {
    const std::int64_t sums = (place.sequence * geometry.heads + head) * geometry.length;
    for (int query = queries.begin; query < queries.end; query += kTile) {
      load_plain<kWidth>(tiles.q, place.rows(task.q, geometry, geometry.heads, head), query,
                         geometry);
      load_plain<kWidth>(tiles.dy, place.rows(task.dy, geometry, geometry.heads, head), query,
                         geometry);
      __syncthreads();  // q and dy are here
      W weights[kRows][kRows];
      multiply_plain<kWidth>(tiles.k, tiles.q, weights);
      W slopes[kRows][kRows];
      multiply_plain<kWidth>(tiles.v, tiles.dy, slopes);
      weigh_queries<kWidth>(geometry, task.log2_sums + sums, task.means + sums, {first, query},
                            weights, slopes);
      store_weights<kWidth>(weights, tiles.weights);
      __syncthreads();  // weights are here
      add_weighted_plain<kWidth>(tiles.weights, tiles.dy, dv);
      __syncthreads();  // weights are free
      store_weights<kWidth>(slopes, tiles.weights);
      __syncthreads();  // slopes are here
      add_weighted_plain<kWidth>(tiles.weights, tiles.q, dk);
      __syncthreads();  // everything is free
    }
  }
  for (int i = 0; i < kRows; ++i) {
    const int row = first + Tile::row(i);
    store_plain<kWidth>(dk[i], W{geometry.scale},
                        place.rows(task.dk, geometry, geometry.kv_heads, place.head), row,
                        geometry);
    store_plain<kWidth>(dv[i], W{1}, place.rows(task.dv, geometry, geometry.kv_heads, place.head),
                        row, geometry);
  }
}

template <typename Tile, typename Kernel, typename Task>
void launch_kernel(CudaContext& context, Kernel kernel, const Task& task, int heads) {
  constexpr const char* kName = "gradient of attention";
  constexpr std::size_t kBytes = Tile::bytes(4);
  check_cuda(allow_shared_memory(kernel, kBytes), kName);
  kernel<<<attention_blocks(task.geometry, heads, task.tiles), Tile::kThreads, kBytes,
           context.stream>>>(task);
  check_launch(kName);
}

template <typename T, int kWidth>
void launch(CudaContext& context, const AttentionGeometry& geometry,
            const AttentionGradientOperands& operands) {
  using Tile = PlainTile<Wide<T>, kWidth>;
  constexpr int kTile = Tile::kTile;
  Tensor rows = context.memory.allocate(wide_dtype(operands.dy.dtype),
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
                              .log2_sums = rows.view().rows(0, 1).as<Wide<T>>(),
                              .means = rows.view().rows(1, 1).as<Wide<T>>(),
                              .tiles = (geometry.length + kTile - 1) / kTile};
  launch_kernel<Tile>(context, query_gradient_kernel<T, kWidth>, task, geometry.heads);
  launch_kernel<Tile>(context, key_gradient_kernel<T, kWidth>, task, geometry.kv_heads);
}

}  // namespace

void attend_back_plain(CudaContext& context, const AttentionGeometry& geometry,
                       const AttentionGradientOperands& operands) {
  with_plain_float(operands.dy.dtype, [&]<typename T>(TypeTag<T>) {
    with_plain_width(geometry.width,
                     [&]<int kWidth>() { launch<T, kWidth>(context, geometry, operands); });
  });
}

}  // namespace quern
