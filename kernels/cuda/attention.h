#pragma once

#include "kernels/cuda/attention_geometry.h"
#include "kernels/cuda/context.h"

namespace quern {

struct AttentionOperands {
  ConstTensorView q;
  ConstTensorView k;
  ConstTensorView v;
  TensorView out;
};

struct AttentionGradientOperands {
  AttentionForward forward;
  ConstTensorView dy;
  AttentionGradient gradient;
};

/// Attention and its gradient without tensor cores, in float or for f64 in double: any activation
/// type, width and alignment.
void attend_plain(CudaContext& context, const AttentionGeometry& geometry,
                  const AttentionOperands& operands);
void attend_back_plain(CudaContext& context, const AttentionGeometry& geometry,
                       const AttentionGradientOperands& operands);

}  // namespace quern
