#pragma once

#include "kernels/cuda/context.h"

namespace quern::gpu {

/// The exponent of a positive finite value v: the largest e with v * growth * 2^e <= 2^bits, or
/// with 2^(2 e) where `halved`.
struct ExponentRule {
  double growth = 1.0;
  int bits = 0;
  bool halved = false;
};

/// out[i] = exponent of values[i] where it is positive and finite after growth; the others get the
/// smallest of those, and all get 0 where there is none. values [n] f64 on the device.
/// Asynchronous.
void fill_exponents(CudaContext& context, const double* values, const ExponentRule& rule,
                    TensorView out);

}  // namespace quern::gpu
