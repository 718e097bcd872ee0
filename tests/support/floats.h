#pragma once

#include <cstddef>
#include <vector>

#include "kernels/core/tensor.h"

namespace quern::test {

/// Half a unit in the last place of 1.
double rounding_of(DType dtype);
inline constexpr double kFloatRounding = 0x1p-24;

/// Element i of a tensor of any plain float type.
float float_at(const HostTensor& host, std::size_t i);

/// All of them, in order.
std::vector<float> floats_of(const HostTensor& host);

}  // namespace quern::test
