#include <omp.h>

#include <array>

#include "kernels/cpu/attention_blocks.h"
#include "kernels/cpu/blas.h"
#include "kernels/cpu/layer_ops.h"
#include "kernels/operands.h"

namespace quern {
namespace {

/// One block of queries of one head; k and v start at the oldest key that one of them sees.
struct AttentionBlock {
  const float* q;
  const float* k;
  const float* v;
  float* out;
  QueryBlock queries;
};

void attend(const AttentionBlock& block, const AttentionShape& shape, float* scores) {
  const std::int64_t q_stride = shape.heads * shape.head_dim;
  const std::int64_t kv_stride = shape.kv_heads * shape.head_dim;
  const std::int64_t stride = score_stride(shape);
  const std::int64_t count = block.queries.count;
  const std::int64_t keys = block.queries.keys();
  multiply({count, keys, shape.head_dim, shape.scale}, {block.q, q_stride},
           {block.k, kv_stride, true}, scores, stride);
  std::array<float, kAttentionQueries> normalisers;
  for (std::int64_t i = 0; i < count; ++i) {
    const double sum = weigh_keys(scores + i * stride, keys, seen_keys(shape, block.queries, i));
    normalisers[static_cast<std::size_t>(i)] = static_cast<float>(1.0 / sum);
  }
  multiply({count, shape.head_dim, keys}, {scores, stride}, {block.v, kv_stride}, block.out,
           q_stride);
  for (std::int64_t i = 0; i < count; ++i) {
    float* row = block.out + i * q_stride;
    for (std::int64_t d = 0; d < shape.head_dim; ++d) {
      row[d] *= normalisers[static_cast<std::size_t>(i)];
    }
  }
}

}  // namespace

void CpuLayerOps::do_attention(ConstTensorView q, ConstTensorView k, ConstTensorView v,
                               const AttentionShape& shape, TensorView out) {
  expect_operands(q.dtype == DType::f32, "attention", "F32 activations on the CPU",
                  {{"q", q}, {"k", k}, {"v", v}, {"out", out}});
  scratch_.reserve(kAttentionQueries * score_stride(shape) *
                   static_cast<std::int64_t>(sizeof(float)));
  const std::int64_t blocks = query_block_count(shape);
  const std::int64_t heads = q.shape[0] / shape.sequence_length * shape.heads;
  // The last block of a sequence has the most keys: blocks in reverse keep the threads' ends close.
#pragma omp parallel for num_threads(threads_) schedule(dynamic)
  for (std::int64_t task = 0; task < blocks * heads; ++task) {
    const QueryBlock queries = query_block(shape, blocks - 1 - task / heads);
    const std::int64_t head = task % shape.heads;
    const std::int64_t row = task % heads / shape.heads * shape.sequence_length;
    const std::int64_t at_q = ((row + queries.first) * shape.heads + head) * shape.head_dim;
    const std::int64_t kv_head = head / (shape.heads / shape.kv_heads);
    const std::int64_t at_kv =
        ((row + queries.first_key) * shape.kv_heads + kv_head) * shape.head_dim;
    attend({.q = q.as<float>() + at_q,
            .k = k.as<float>() + at_kv,
            .v = v.as<float>() + at_kv,
            .out = out.as<float>() + at_q,
            .queries = queries},
           shape, scratch_.of_thread<float>(omp_get_thread_num()));
  }
}

}  // namespace quern
