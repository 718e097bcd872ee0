#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/layer_ops.h"

namespace quern::test {

inline AttentionShape attention_shape(std::int64_t head_dim, std::int64_t length,
                                      std::int64_t window = 0) {
  return {.heads = 4,
          .kv_heads = 2,
          .head_dim = head_dim,
          .sequence_length = length,
          .window = window,
          .scale = 1.0F / std::sqrt(static_cast<float>(head_dim))};
}

/// Lengths around a tile at one width, all widths at one length, and windows; 20 and 42 cannot be
/// cut into 16-byte pieces, 256 is the widest.
inline std::vector<AttentionShape> attention_shapes() {
  std::vector<AttentionShape> shapes;
  for (const std::int64_t length : {1, 31, 32, 33, 63, 64, 65, 127, 129}) {
    shapes.push_back(attention_shape(64, length));
  }
  for (const std::int64_t head_dim : {2, 8, 20, 32, 42, 48, 80, 96, 128, 160, 256}) {
    shapes.push_back(attention_shape(head_dim, 129));
  }
  for (const std::int64_t window : {1, 2, 40, 64, 65, 128, 129, 1000}) {
    shapes.push_back(attention_shape(64, 129, window));
    shapes.push_back(attention_shape(20, 129, window));
  }
  AttentionShape alone = attention_shape(128, 65);
  alone.kv_heads = 4;
  shapes.push_back(alone);
  alone.kv_heads = 1;
  shapes.push_back(alone);
  return shapes;
}

}  // namespace quern::test
