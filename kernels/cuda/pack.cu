#include <algorithm>

#include "kernels/cuda/errors.h"
#include "kernels/cuda/numeric.cuh"
#include "kernels/cuda/pack.h"

namespace quern::gpu {
namespace {

using namespace numeric;

constexpr int kThreads = 256;
constexpr std::int64_t kWordBits = 32;

dim3 grid_of(std::int64_t across, std::int64_t down) {
  return {block_count(across, kThreads),
          static_cast<unsigned>(std::min<std::int64_t>(down, 65535))};
}

/// Thread x: one row of codes; block y: words y, y + gridDim.y, ...
__global__ void pack_kernel(const std::uint8_t* codes, std::int64_t rows, std::int64_t columns,
                            int bits, std::int64_t words, std::uint32_t* out) {
  const std::int64_t n = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (n >= rows) return;
  const std::uint64_t mask = (std::uint64_t{1} << bits) - 1;
  for (std::int64_t word = blockIdx.y; word < words; word += gridDim.y) {
    // A word's first code may begin in the word before it, and its last one end in the next.
    const std::int64_t first_bit = word * kWordBits;
    const std::int64_t first = first_bit / bits;
    const std::int64_t last = min(columns, (first_bit + kWordBits + bits - 1) / bits);
    std::uint64_t window = 0;
    for (std::int64_t k = first; k < last; ++k) {
      window |= (codes[n * columns + k] & mask) << ((k - first) * bits);
    }
    out[word * rows + n] = static_cast<std::uint32_t>(window >> (first_bit - first * bits));
  }
}

/// Thread x: one column; block y: rows y, y + gridDim.y, ...
__global__ void unpack_kernel(const std::uint32_t* words, std::int64_t rows, std::int64_t columns,
                              int bits, std::uint8_t* codes) {
  const std::int64_t k = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (k >= columns) return;
  const std::int64_t word = k * bits / kWordBits;
  const std::int64_t shift = k * bits % kWordBits;
  const std::uint64_t mask = (std::uint64_t{1} << bits) - 1;
  for (std::int64_t n = blockIdx.y; n < rows; n += gridDim.y) {
    std::uint64_t window = words[word * rows + n];
    if (shift + bits > kWordBits) {
      window |= std::uint64_t{words[(word + 1) * rows + n]} << kWordBits;
    }
    codes[n * columns + k] = static_cast<std::uint8_t>((window >> shift) & mask);
  }
}

struct CodesView {
  const std::uint8_t* codes;
  const __half* scales;
  const std::uint8_t* zeros;
  const std::int32_t* group_of;
  std::int64_t rows;
  std::int64_t columns;
};

/// Thread x: one column; block y: rows y, y + gridDim.y, ...
__global__ void dequantize_kernel(CodesView in, float* out) {
  const std::int64_t k = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (k >= in.columns) return;
  const std::int64_t group = in.group_of[k] * in.rows;
  for (std::int64_t n = blockIdx.y; n < in.rows; n += gridDim.y) {
    // 11 bits of scale times 9 bits of difference: exact in the 24 bits of a float.
    const int steps = in.codes[n * in.columns + k] - in.zeros[group + n];
    out[n * in.columns + k] = __half2float(in.scales[group + n]) * static_cast<float>(steps);
  }
}

}  // namespace

void pack_codes(CudaContext& context, ConstTensorView codes, int bits, TensorView out) {
  if (out.elems() == 0) return;
  const std::int64_t rows = codes.shape[0];
  pack_kernel<<<grid_of(rows, out.shape[0]), kThreads, 0, context.stream>>>(
      codes.as<std::uint8_t>(), rows, codes.shape[1], bits, out.shape[0], out.as<std::uint32_t>());
  check_launch("pack");
}

void unpack_codes(CudaContext& context, ConstTensorView words, int bits, TensorView codes) {
  if (codes.elems() == 0) return;
  unpack_kernel<<<grid_of(codes.shape[1], codes.shape[0]), kThreads, 0, context.stream>>>(
      words.as<std::uint32_t>(), codes.shape[0], codes.shape[1], bits, codes.as<std::uint8_t>());
  check_launch("unpack");
}

void dequantize_codes(CudaContext& context, const QuantizedTensor& quantized, TensorView out) {
  const CodesView in{quantized.codes.view().as<std::uint8_t>(),
                     quantized.scales.view().as<__half>(),
                     quantized.zeros.view().as<std::uint8_t>(),
                     quantized.group_of.view().as<std::int32_t>(),
                     out.shape[0],
                     out.shape[1]};
  dequantize_kernel<<<grid_of(in.columns, in.rows), kThreads, 0, context.stream>>>(in,
                                                                                   out.as<float>());
  check_launch("dequantize");
}

}  // namespace quern::gpu
