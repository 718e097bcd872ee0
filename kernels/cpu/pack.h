#pragma once

#include "kernels/core/tensor.h"
#include "kernels/solver.h"

namespace quern {

/// Solver::pack, unpack and dequantize on the host. pack_codes throws InternalError on a code of
/// more than `bits` bits.
void pack_codes(ConstTensorView codes, int bits, TensorView out, int threads);
void unpack_codes(ConstTensorView words, int bits, TensorView codes, int threads);
void dequantize_codes(const QuantizedTensor& quantized, TensorView out, int threads);

}  // namespace quern
