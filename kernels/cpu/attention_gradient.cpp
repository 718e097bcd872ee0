#include <omp.h>

#include <algorithm>

#include "kernels/cpu/attention_blocks.h"
#include "kernels/cpu/blas.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/gradient_ops.h"
#include "kernels/cpu/gradient_rows.h"

namespace quern {
namespace {

/// One block of queries of one head; what belongs to keys starts at the oldest that one of them
/// sees.
template <typename T>
struct GradientBlock {
  const T* q;
  const T* k;
  const T* v;
  const T* out;
  const T* dy;
  T* dq;  ///< overwritten
  T* dk;  ///< added to
  T* dv;  ///< added to
  QueryBlock queries;
};

/// A thread's working space.
template <typename T>
struct BlockScratch {
  BlockScratch(const AttentionShape& shape, T* memory)
      : stride(score_stride(shape)),
        weights(memory),
        slopes(weights + kAttentionQueries * stride),
        dy(slopes + kAttentionQueries * stride) {}

  static std::int64_t bytes(const AttentionShape& shape) {
    return kAttentionQueries * (2 * score_stride(shape) + shape.head_dim) *
           static_cast<std::int64_t>(sizeof(T));
  }

  std::int64_t stride;
  T* weights;  ///< [queries, stride], exp(score - max), not normalised
  T* slopes;   ///< [queries, stride], gradient of the weights, then of the products q . k
  T* dy;       ///< [queries, head_dim], divided by the sums of the weights
};

/// From scores and the gradient of the weights to the gradient of the products q . k.
/// Dao et al., "FlashAttention", appendix B.2: dS = P (dP - rowsum(dO O)).
template <typename T>
void back_through_softmax(const GradientBlock<T>& block, const AttentionShape& shape,
                          const BlockScratch<T>& scratch) {
  const std::int64_t width = shape.head_dim;
  const std::int64_t keys = block.queries.keys();
  for (std::int64_t i = 0; i < block.queries.count; ++i) {
    const SeenKeys seen = seen_keys(shape, block.queries, i);
    T* weights = scratch.weights + i * scratch.stride;
    T* slopes = scratch.slopes + i * scratch.stride;
    const T* dy = block.dy + i * shape.heads * width;
    const auto normaliser = static_cast<T>(1.0 / weigh_keys(weights, keys, seen));
    scale_row(dy, normaliser, width, scratch.dy + i * width);
    clear_unseen(slopes, keys, seen);
    softmax_gradient_row(weights + seen.begin, normaliser * T{shape.scale},
                         dot_row(dy, block.out + i * shape.heads * width, width),
                         seen.end - seen.begin, slopes + seen.begin);
  }
}

template <typename T>
void back_through_block(const GradientBlock<T>& block, const AttentionShape& shape,
                        const BlockScratch<T>& scratch) {
  const std::int64_t width = shape.head_dim;
  const std::int64_t q_stride = shape.heads * width;
  const std::int64_t kv_stride = shape.kv_heads * width;
  const std::int64_t count = block.queries.count;
  const std::int64_t keys = block.queries.keys();
  multiply({count, keys, width, shape.scale}, {block.q, q_stride}, {block.k, kv_stride, true},
           scratch.weights, scratch.stride);
  multiply({count, keys, width}, {block.dy, q_stride}, {block.v, kv_stride, true}, scratch.slopes,
           scratch.stride);
  back_through_softmax(block, shape, scratch);
  multiply({count, width, keys}, {scratch.slopes, scratch.stride}, {block.k, kv_stride}, block.dq,
           q_stride);
  const BlasExtents onto_keys{.rows = keys, .columns = width, .depth = count, .accumulate = true};
  multiply(onto_keys, {scratch.weights, scratch.stride, true}, {scratch.dy, width}, block.dv,
           kv_stride);
  multiply(onto_keys, {scratch.slopes, scratch.stride, true}, {block.q, q_stride}, block.dk,
           kv_stride);
}

/// What all tasks share.
struct GradientOperands {
  const AttentionForward& forward;
  ConstTensorView dy;
  const AttentionShape& shape;
  const AttentionGradient& gradient;
};

template <typename T>
GradientBlock<T> gradient_block(const GradientOperands& operands, std::int64_t row,
                                std::int64_t head, const QueryBlock& queries) {
  const AttentionShape& shape = operands.shape;
  const std::int64_t kv_head = head / (shape.heads / shape.kv_heads);
  const std::int64_t at_q = ((row + queries.first) * shape.heads + head) * shape.head_dim;
  const std::int64_t at_kv =
      ((row + queries.first_key) * shape.kv_heads + kv_head) * shape.head_dim;
  return {.q = operands.forward.q.as<T>() + at_q,
          .k = operands.forward.k.as<T>() + at_kv,
          .v = operands.forward.v.as<T>() + at_kv,
          .out = operands.forward.out.as<T>() + at_q,
          .dy = operands.dy.as<T>() + at_q,
          .dq = operands.gradient.q.as<T>() + at_q,
          .dk = operands.gradient.k.as<T>() + at_kv,
          .dv = operands.gradient.v.as<T>() + at_kv,
          .queries = queries};
}

template <typename T>
void clear_head(const TensorView& gradient, const AttentionShape& shape, std::int64_t row,
                std::int64_t kv_head) {
  for (std::int64_t t = row; t < row + shape.sequence_length; ++t) {
    std::fill_n(gradient.as<T>() + (t * shape.kv_heads + kv_head) * shape.head_dim, shape.head_dim,
                T{0});
  }
}

/// One head of keys and values of one sequence: its query heads add to it in order.
template <typename T>
void back_through_head(const GradientOperands& operands, std::int64_t row, std::int64_t kv_head,
                       const BlockScratch<T>& scratch) {
  const AttentionShape& shape = operands.shape;
  clear_head<T>(operands.gradient.k, shape, row, kv_head);
  clear_head<T>(operands.gradient.v, shape, row, kv_head);
  const std::int64_t group = shape.heads / shape.kv_heads;
  for (std::int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    for (std::int64_t block = 0; block < query_block_count(shape); ++block) {
      back_through_block(gradient_block<T>(operands, row, head, query_block(shape, block)), shape,
                         scratch);
    }
  }
}

}  // namespace

void CpuGradientOps::do_attention(const AttentionForward& forward, ConstTensorView dy,
                                  const AttentionShape& shape, const AttentionGradient& gradient) {
  expect_activation("gradient of attention", {{"q", forward.q}, {"dy", dy}});
  const GradientOperands operands{forward, dy, shape, gradient};
  const std::int64_t sequences = dy.shape[0] / shape.sequence_length;
  with_activation(dy.dtype, [&]<typename T>(T) {
    scratch_.reserve(BlockScratch<T>::bytes(shape));
#pragma omp parallel for num_threads(threads_) schedule(dynamic)
    for (std::int64_t task = 0; task < sequences * shape.kv_heads; ++task) {
      back_through_head(operands, task / shape.kv_heads * shape.sequence_length,
                        task % shape.kv_heads,
                        BlockScratch<T>(shape, scratch_.of_thread<T>(omp_get_thread_num())));
    }
  });
}

}  // namespace quern
