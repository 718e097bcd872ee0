#pragma once

#include <cstdint>
#include <span>

#include "kernels/core/dtype.h"

namespace quern::test {

/// Largest difference over the largest expected value, and the same of root mean squares.
struct Deviation {
  double largest = 0.0;
  double rms = 0.0;
};

/// Anything that is not finite where a finite value is expected deviates infinitely.
Deviation deviation(std::span<const float> found, std::span<const float> expected);
/// The larger of each.
Deviation worse(const Deviation& a, const Deviation& b);

/// The unit of tolerances of activations rounded to a type: half a unit in the last place of 1
/// times the square root of the depth, as the roundings of layers are independent.
double depth_rounding(DType activation, std::int64_t layers);

}  // namespace quern::test
