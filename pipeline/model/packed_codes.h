#pragma once

#include <cstdint>
#include <span>

#include "kernels/core/tensor.h"
#include "pipeline/model/take_values.h"

namespace quern {

/// Reads one field of `bits` bits (at most 8) at `index` of the little-endian bit stream formed by
/// words[0], words[stride], words[2 stride] ...
std::uint32_t packed_field(std::span<const std::int32_t> words, std::size_t stride,
                           std::int64_t index, int bits);

/// Codes on a uniform grid in the layout of GPTQ files; views of host tensors.
struct PackedGrid {
  const HostTensor& words;     ///< [ceil(K bits / 32), n] i32: of rows first_row .. first_row + n
  const HostTensor& scales;    ///< [G, N] f16
  const HostTensor& zeros;     ///< [G, N] u8
  const HostTensor& group_of;  ///< [K] i32, each in [0, G)
  int bits;
  std::int64_t first_row = 0;
};

/// W [N, K] f32 = scales[g, n] (code[k, n] - zeros[g, n]), of the words of all rows. Written for
/// reading alone: it shares nothing with the packer.
HostTensor decode_grid(const PackedGrid& grid);
/// The same of the rows whose words are there, a few at a time.
void decode_grid(const PackedGrid& grid, const TakeValues& take);

/// Codes into per-row tables with a sparse part, in the layout of SqueezeLLM's files; views of host
/// tensors that fit each other.
struct PackedCodebook {
  const HostTensor& words;  ///< [ceil(K bits / 32), n] i32: of rows first_row .. first_row + n
  const HostTensor& table;  ///< [N, 2^bits] f32
  const HostTensor& rows;   ///< [N + 1] i32, ascending from 0 to nnz
  const HostTensor& cols;   ///< [nnz] i32, each in [0, columns)
  const HostTensor& vals;   ///< [nnz] f32
  std::int64_t columns;
  int bits;
  std::int64_t first_row = 0;
};

/// W [N, K] f32 = table[n, code[k, n]], plus vals at their places, of the words of all rows.
HostTensor decode_codebook(const PackedCodebook& codebook);
/// The same of the rows whose words are there, a few at a time.
void decode_codebook(const PackedCodebook& codebook, const TakeValues& take);

}  // namespace quern
