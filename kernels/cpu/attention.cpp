#include <omp.h>

#include <algorithm>
#include <array>

#include "kernels/cpu/blas.h"
#include "kernels/cpu/layer_ops.h"
#include "kernels/cpu/row_kernels.h"
#include "kernels/operands.h"

namespace quern {
namespace {

// Queries of one head that share a product with all keys any of them sees.
constexpr std::int64_t kQueries = 128;

/// One block of queries of one head: rows of q, k, v and out within one sequence.
struct AttentionBlock {
  const float* q;
  const float* k;
  const float* v;
  float* out;
  std::int64_t first, count;  ///< queries, by their position in the sequence
  std::int64_t first_key;     ///< the oldest key that one of them sees
};

std::int64_t block_count(const AttentionShape& shape) {
  return (shape.sequence_length + kQueries - 1) / kQueries;
}

std::int64_t oldest_key(const AttentionShape& shape, std::int64_t query) {
  return shape.window == 0 ? 0 : std::max<std::int64_t>(0, query - shape.window + 1);
}

/// Floats from one row of scores to the next: not a power of two, which would crowd the cache.
std::int64_t score_stride(const AttentionShape& shape) {
  const std::int64_t keys = shape.window == 0
                                ? shape.sequence_length
                                : std::min(shape.sequence_length, shape.window + kQueries - 1);
  return (keys + 15) / 16 * 16 + 16;
}

/// exp(score - max) where the query sees the key, 0 elsewhere; returns the sum.
double weigh_keys(float* scores, std::int64_t keys, std::int64_t begin, std::int64_t end) {
  std::fill(scores, scores + begin, 0.0F);
  std::fill(scores + end, scores + keys, 0.0F);
  float* seen = scores + begin;
  return exp_row(seen, end - begin, row_max(seen, end - begin), seen);
}

void attend(const AttentionBlock& block, const AttentionShape& shape, float* scores) {
  const std::int64_t q_stride = shape.heads * shape.head_dim;
  const std::int64_t kv_stride = shape.kv_heads * shape.head_dim;
  const std::int64_t stride = score_stride(shape);
  const std::int64_t keys = block.first + block.count - block.first_key;
  multiply({block.count, keys, shape.head_dim, shape.scale}, {block.q, q_stride},
           {block.k, kv_stride, true}, scores, stride);
  std::array<float, kQueries> normalisers;
  for (std::int64_t i = 0; i < block.count; ++i) {
    const std::int64_t query = block.first + i;
    const double sum =
        weigh_keys(scores + i * stride, keys, oldest_key(shape, query) - block.first_key,
                   query + 1 - block.first_key);
    normalisers[static_cast<std::size_t>(i)] = static_cast<float>(1.0 / sum);
  }
  multiply({block.count, shape.head_dim, keys}, {scores, stride}, {block.v, kv_stride}, block.out,
           q_stride);
  for (std::int64_t i = 0; i < block.count; ++i) {
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
  scratch_.reserve(kQueries * score_stride(shape) * static_cast<std::int64_t>(sizeof(float)));
  const std::int64_t blocks = block_count(shape);
  const std::int64_t heads = q.shape[0] / shape.sequence_length * shape.heads;
  // The last block of a sequence has the most keys: blocks in reverse keep the threads' ends close.
#pragma omp parallel for num_threads(threads_) schedule(dynamic)
  for (std::int64_t task = 0; task < blocks * heads; ++task) {
    const std::int64_t first = (blocks - 1 - task / heads) * kQueries;
    const std::int64_t head = task % shape.heads;
    const std::int64_t row = task % heads / shape.heads * shape.sequence_length;
    const std::int64_t first_key = oldest_key(shape, first);
    const std::int64_t at_q = ((row + first) * shape.heads + head) * shape.head_dim;
    const std::int64_t kv_head = head / (shape.heads / shape.kv_heads);
    const std::int64_t at_kv = ((row + first_key) * shape.kv_heads + kv_head) * shape.head_dim;
    attend({.q = q.as<float>() + at_q,
            .k = k.as<float>() + at_kv,
            .v = v.as<float>() + at_kv,
            .out = out.as<float>() + at_q,
            .first = first,
            .count = std::min(kQueries, shape.sequence_length - first),
            .first_key = first_key},
           shape, scratch_.of_thread<float>(omp_get_thread_num()));
  }
}

}  // namespace quern
