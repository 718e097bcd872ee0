#pragma once

#include <cstdint>
#include <initializer_list>

#include "kernels/layer_ops.h"

namespace quern {

/// AttentionShape as kernels take it. Scores are kept times log2(e), so that weights are powers of
/// two.
struct AttentionGeometry {
  int heads = 0;
  int kv_heads = 0;
  int width = 0;   ///< of a head
  int length = 0;  ///< of a sequence
  int window = 0;  ///< in [1, length]
  std::int64_t sequences = 0;
  float scale = 1.0F;
  float scale_log2 = 1.0F;
};

/// Throws InputError if a head is wider than max_head_dim, InternalError on 2^31 tokens or more.
AttentionGeometry attention_geometry(const AttentionShape& shape, std::int64_t tokens);

inline constexpr std::int64_t max_head_dim = 256;

/// True if rows of a head can be moved in 16-byte pieces of a 16-bit type.
bool fits_tensor_cores(const AttentionGeometry& geometry,
                       std::initializer_list<ConstTensorView> views);

/// Blocks of a grid with one for each of `tiles` tiles of each of `heads` heads of each sequence.
unsigned attention_blocks(const AttentionGeometry& geometry, int heads, int tiles);

}  // namespace quern
