#include <omp.h>

#include <array>

#include "kernels/cpu/attention_blocks.h"
#include "kernels/cpu/blas.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/layer_ops.h"

namespace quern {
namespace {

/// One block of queries of one head; k and v start at the oldest key that one of them sees.
template <typename T>
struct AttentionBlock {
  const T* q;
  const T* k;
  const T* v;
  T* out;
  QueryBlock queries;
};

template <typename T>
void attend(const AttentionBlock<T>& block, const AttentionShape& shape, T* scores) {
  const std::int64_t q_stride = shape.heads * shape.head_dim;
  const std::int64_t kv_stride = shape.kv_heads * shape.head_dim;
  const std::int64_t stride = score_stride(shape);
  const std::int64_t count = block.queries.count;
  const std::int64_t keys = block.queries.keys();
  multiply({count, keys, shape.head_dim, shape.scale}, {block.q, q_stride},
           {block.k, kv_stride, true}, scores, stride);
  std::array<T, kAttentionQueries> normalisers;
  for (std::int64_t i = 0; i < count; ++i) {
    const double sum = weigh_keys(scores + i * stride, keys, seen_keys(shape, block.queries, i));
    normalisers[static_cast<std::size_t>(i)] = static_cast<T>(1.0 / sum);
  }
  multiply({count, shape.head_dim, keys}, {scores, stride}, {block.v, kv_stride}, block.out,
           q_stride);
  for (std::int64_t i = 0; i < count; ++i) {
    T* row = block.out + i * q_stride;
    for (std::int64_t d = 0; d < shape.head_dim; ++d) {
      row[d] *= normalisers[static_cast<std::size_t>(i)];
    }
  }
}

/// What all tasks share.
struct Attention {
  ConstTensorView q;
  ConstTensorView k;
  ConstTensorView v;
  const AttentionShape& shape;
  TensorView out;

  std::int64_t heads() const { return q.shape[0] / shape.sequence_length * shape.heads; }
  std::int64_t tasks() const { return query_block_count(shape) * heads(); }
};

/// The last block of a sequence has the most keys: blocks in reverse keep the threads' ends close.
template <typename T>
AttentionBlock<T> attention_block(const Attention& attention, std::int64_t task) {
  const AttentionShape& shape = attention.shape;
  const std::int64_t heads = attention.heads();
  const QueryBlock queries = query_block(shape, query_block_count(shape) - 1 - task / heads);
  const std::int64_t head = task % shape.heads;
  const std::int64_t row = task % heads / shape.heads * shape.sequence_length;
  const std::int64_t at_q = ((row + queries.first) * shape.heads + head) * shape.head_dim;
  const std::int64_t kv_head = head / (shape.heads / shape.kv_heads);
  const std::int64_t at_kv =
      ((row + queries.first_key) * shape.kv_heads + kv_head) * shape.head_dim;
  return {.q = attention.q.as<T>() + at_q,
          .k = attention.k.as<T>() + at_kv,
          .v = attention.v.as<T>() + at_kv,
          .out = attention.out.as<T>() + at_q,
          .queries = queries};
}

}  // namespace

void CpuLayerOps::do_attention(ConstTensorView q, ConstTensorView k, ConstTensorView v,
                               const AttentionShape& shape, TensorView out) {
  expect_activation("attention", {{"q", q}, {"k", k}, {"v", v}, {"out", out}});
  const Attention attention{q, k, v, shape, out};
  with_activation(q.dtype, [&]<typename T>(T) {
    scratch_.reserve(kAttentionQueries * score_stride(shape) *
                     static_cast<std::int64_t>(sizeof(T)));
#pragma omp parallel for num_threads(threads_) schedule(dynamic)
    for (std::int64_t task = 0; task < attention.tasks(); ++task) {
      attend(attention_block<T>(attention, task), shape,
             scratch_.of_thread<T>(omp_get_thread_num()));
    }
  });
}

}  // namespace quern
