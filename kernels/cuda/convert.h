#pragma once

#include "kernels/cuda/context.h"

namespace quern {

/// out = in, element by element, rounded once to nearest even; plain float types, equal counts.
void convert_elements(CudaContext& context, ConstTensorView in, TensorView out);

/// A view of the same values in another type; owns them if they had to be converted.
class Converted {
 public:
  Converted(CudaContext& context, ConstTensorView in, DType dtype);

  const ConstTensorView& view() const noexcept { return view_; }

 private:
  Tensor owned_;
  ConstTensorView view_;
};

}  // namespace quern
