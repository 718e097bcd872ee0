#pragma once

#include <cstdint>
#include <vector>

#include "tests/kernels/cpu/cpu_ops.h"

namespace quern::test {

struct AttentionCase {
  std::int64_t sequences;
  AttentionShape shape;
};

constexpr AttentionShape attention_shape(std::int64_t heads, std::int64_t kv_heads,
                                         std::int64_t head_dim, std::int64_t length,
                                         std::int64_t window) {
  return {heads, kv_heads, head_dim, length, window, 0.125F};
}

/// Random q, k and v of a case.
struct AttentionInputs {
  AttentionInputs(const AttentionCase& that, double query_scale)
      : shape(that.shape),
        tokens(that.sequences * that.shape.sequence_length),
        q_shape{tokens, shape.heads * shape.head_dim},
        kv_shape{tokens, shape.kv_heads * shape.head_dim},
        q(normal_values(q_shape.elems(), 1, query_scale)),
        k(normal_values(kv_shape.elems(), 2)),
        v(normal_values(kv_shape.elems(), 3)) {}

  AttentionShape shape;
  std::int64_t tokens;
  Shape q_shape, kv_shape;
  std::vector<double> q, k, v;
};

}  // namespace quern::test
