#pragma once

#include <cstdint>
#include <span>

#include "kernels/core/tensor.h"

namespace quern {

/// Reads one field of `bits` bits (at most 8) at `index` of the little-endian bit stream formed by
/// words[0], words[stride], words[2 stride] ...
std::uint32_t packed_field(std::span<const std::int32_t> words, std::size_t stride,
                           std::int64_t index, int bits);

/// Codes on a uniform grid in the layout of GPTQ files; views of host tensors.
struct PackedGrid {
  const HostTensor& words;     ///< [ceil(K bits / 32), N] i32
  const HostTensor& scales;    ///< [G, N] f16
  const HostTensor& zeros;     ///< [G, N] u8
  const HostTensor& group_of;  ///< [K] i32, each in [0, G)
  int bits;
};

/// W [N, K] f32 = scales[g, n] (code[k, n] - zeros[g, n]). Written for reading alone: it shares
/// nothing with the packer.
HostTensor decode_grid(const PackedGrid& grid);

}  // namespace quern
