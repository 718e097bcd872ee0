#include "kernels/cpu/pack.h"

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "kernels/core/error.h"
#include "kernels/core/float16.h"

namespace quern {
namespace {

constexpr std::int64_t kWordBits = 32;
constexpr std::int64_t kTile = 64;  // output columns whose rows of codes stay in cache together

}  // namespace

void pack_codes(ConstTensorView codes, int bits, TensorView out, int threads) {
  const std::int64_t rows = codes.shape[0];
  const std::int64_t columns = codes.shape[1];
  const std::int64_t words = out.shape[0];
  const auto* in = codes.as<std::uint8_t>();
  auto* packed = out.as<std::uint32_t>();
  std::atomic<bool> fits = true;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (std::int64_t tile = 0; tile < rows; tile += kTile) {
    const std::int64_t end = std::min(tile + kTile, rows);
    unsigned seen = 0;
    for (std::int64_t word = 0; word < words; ++word) {
      const std::int64_t first_bit = word * kWordBits;
      const std::int64_t first = first_bit / bits;
      const std::int64_t last = std::min(columns, (first_bit + kWordBits + bits - 1) / bits);
      for (std::int64_t n = tile; n < end; ++n) {
        // A word's first code may begin in the word before it, and its last one end in the next.
        std::uint64_t window = 0;
        for (std::int64_t k = first; k < last; ++k) {
          seen |= in[n * columns + k];
          window |= std::uint64_t{in[n * columns + k]} << ((k - first) * bits);
        }
        packed[word * rows + n] = static_cast<std::uint32_t>(window >> (first_bit - first * bits));
      }
    }
    if ((seen >> bits) != 0) fits = false;
  }
  ensure(fits, "codes below 2^bits");
}

void unpack_codes(ConstTensorView words, int bits, TensorView codes, int threads) {
  const std::int64_t rows = codes.shape[0];
  const std::int64_t columns = codes.shape[1];
  const auto* packed = words.as<std::uint32_t>();
  auto* out = codes.as<std::uint8_t>();
  const std::uint64_t mask = (std::uint64_t{1} << bits) - 1;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (std::int64_t tile = 0; tile < rows; tile += kTile) {
    const std::int64_t end = std::min(tile + kTile, rows);
    for (std::int64_t k = 0; k < columns; ++k) {
      const std::int64_t word = k * bits / kWordBits;
      const std::int64_t shift = k * bits % kWordBits;
      const bool straddles = shift + bits > kWordBits;
      for (std::int64_t n = tile; n < end; ++n) {
        std::uint64_t window = packed[word * rows + n];
        if (straddles) window |= std::uint64_t{packed[(word + 1) * rows + n]} << kWordBits;
        out[n * columns + k] = static_cast<std::uint8_t>((window >> shift) & mask);
      }
    }
  }
}

void dequantize_codes(const QuantizedTensor& quantized, TensorView out, int threads) {
  const std::int64_t rows = out.shape[0];
  const std::int64_t columns = out.shape[1];
  const auto* codes = quantized.codes.view().as<std::uint8_t>();
  const auto* scales = quantized.scales.view().as<std::uint16_t>();
  const auto* zeros = quantized.zeros.view().as<std::uint8_t>();
  const auto* group_of = quantized.group_of.view().as<std::int32_t>();
  auto* values = out.as<float>();
#pragma omp parallel for schedule(static) num_threads(threads)
  for (std::int64_t n = 0; n < rows; ++n) {
    for (std::int64_t k = 0; k < columns; ++k) {
      // 11 bits of scale times 9 bits of difference: exact in the 24 bits of a float.
      const std::int64_t at = group_of[k] * rows + n;
      values[n * columns + k] =
          f16_to_float(scales[at]) * static_cast<float>(codes[n * columns + k] - zeros[at]);
    }
  }
}

}  // namespace quern
