#pragma once

#include "kernels/cuda/context.h"

namespace quern::gpu {

/// Solver::pack, unpack and dequantize on the device, asynchronous. Bits of a code beyond `bits`
/// are cut off, so that they reach no other code.
void pack_codes(CudaContext& context, ConstTensorView codes, int bits, TensorView out);
void unpack_codes(CudaContext& context, ConstTensorView words, int bits, TensorView codes);
void dequantize_codes(CudaContext& context, const QuantizedTensor& quantized, TensorView out);

}  // namespace quern::gpu
