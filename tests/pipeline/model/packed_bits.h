#pragma once

#include <cstdint>
#include <vector>

#include "kernels/core/tensor.h"

namespace quern::test {

/// Words of one little-endian bit stream, bit by bit; zero padded to whole words.
inline std::vector<std::uint32_t> bit_stream(const std::vector<unsigned>& fields, int bits) {
  std::vector<std::uint32_t> words((fields.size() * static_cast<std::size_t>(bits) + 31) / 32);
  std::size_t at = 0;
  for (const unsigned field : fields) {
    for (int bit = 0; bit < bits; ++bit, ++at) {
      if ((field >> bit & 1U) != 0) words[at / 32] |= 1U << at % 32;
    }
  }
  return words;
}

template <typename T>
HostTensor host_tensor(DType dtype, const Shape& shape, const std::vector<T>& values) {
  HostTensor tensor(dtype, shape);
  const auto out = tensor.as<T>();
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = values.at(i);
  return tensor;
}

/// codes[n][k] as words [ceil(K bits / 32), N].
inline HostTensor packed_columns(const std::vector<std::vector<unsigned>>& codes, int bits) {
  const std::size_t words = bit_stream(codes.front(), bits).size();
  HostTensor tensor(DType::i32,
                    {static_cast<std::int64_t>(words), static_cast<std::int64_t>(codes.size())});
  for (std::size_t n = 0; n < codes.size(); ++n) {
    const std::vector<std::uint32_t> stream = bit_stream(codes[n], bits);
    for (std::size_t w = 0; w < words; ++w) {
      tensor.as<std::uint32_t>()[w * codes.size() + n] = stream[w];
    }
  }
  return tensor;
}

/// fields[g][n] as words [G, ceil(N bits / 32)].
inline HostTensor packed_rows(const std::vector<std::vector<unsigned>>& fields, int bits) {
  const std::size_t words = bit_stream(fields.front(), bits).size();
  HostTensor tensor(DType::i32,
                    {static_cast<std::int64_t>(fields.size()), static_cast<std::int64_t>(words)});
  for (std::size_t g = 0; g < fields.size(); ++g) {
    const std::vector<std::uint32_t> stream = bit_stream(fields[g], bits);
    for (std::size_t w = 0; w < words; ++w) tensor.as<std::uint32_t>()[g * words + w] = stream[w];
  }
  return tensor;
}

}  // namespace quern::test
