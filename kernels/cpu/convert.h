#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/core/dtype.h"
#include "kernels/core/tensor.h"

namespace quern {

/// Element i .. i + count of `in` into the same places of `out`, round to nearest even (once, also
/// from f64 to 16 bits). Both plain float types; elements inside the views.
void convert_elems(const ConstTensorView& in, const TensorView& out, std::int64_t begin,
                   std::int64_t count);

/// Elements begin .. begin + count of `in` as floats or doubles into out[0 .. count).
void load_elems(const ConstTensorView& in, std::int64_t begin, std::int64_t count, float* out);
void load_elems(const ConstTensorView& in, std::int64_t begin, std::int64_t count, double* out);

}  // namespace quern
