#include "kernels/cuda/attention_geometry.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <numbers>

#include "kernels/core/error.h"
#include "kernels/cuda/launch.h"

namespace quern {

AttentionGeometry attention_geometry(const AttentionShape& shape, std::int64_t tokens) {
  if (shape.head_dim > max_head_dim) {
    throw InputError(fmt::format(
        "attention: head_dim is {}; expected at most {}, the widest head that the CUDA backend "
        "supports; run this model with device: cpu",
        shape.head_dim, max_head_dim));
  }
  constexpr std::int64_t kMost = std::numeric_limits<int>::max();
  ensure(tokens <= kMost && shape.heads <= kMost, "fewer than 2^31 tokens and heads");
  const std::int64_t length = shape.sequence_length;
  const bool all = shape.window == 0 || shape.window > length;
  return {.heads = static_cast<int>(shape.heads),
          .kv_heads = static_cast<int>(shape.kv_heads),
          .width = static_cast<int>(shape.head_dim),
          .length = static_cast<int>(length),
          .window = static_cast<int>(all ? length : shape.window),
          .sequences = tokens / length,
          .scale = shape.scale,
          .scale_log2 = shape.scale * std::numbers::log2e_v<float>};
}

bool fits_tensor_cores(const AttentionGeometry& geometry,
                       std::initializer_list<ConstTensorView> views) {
  return geometry.width % 8 == 0 && std::ranges::all_of(views, [](const ConstTensorView& view) {
           return dtype_bytes(view.dtype) == 2 &&
                  reinterpret_cast<std::uintptr_t>(view.data) % 16 == 0;
         });
}

unsigned attention_blocks(const AttentionGeometry& geometry, int heads, int tiles) {
  return block_count(geometry.sequences * heads * tiles, 1);
}

}  // namespace quern
