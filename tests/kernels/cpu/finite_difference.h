#pragma once

#include <functional>

#include "kernels/core/tensor.h"
#include "tests/kernels/cpu/forward_reference.h"

namespace quern::test {

/// A loss as a function of one operand, in double.
using Loss = std::function<double(const Values&)>;

/// sum of dy * y: its gradient with respect to y is dy.
double weighted_sum(const Values& dy, const Values& y);

/// Expects `gradient`, f32 or f64, to be that of the loss at x, to `relative` of its largest entry:
/// along single elements (all, or a sample with the first and the last) and along random
/// directions, which see every element; there rounding errors are taken as independent.
void expect_gradient(const Loss& loss, const Values& x, ConstTensorView gradient, double relative);

}  // namespace quern::test
