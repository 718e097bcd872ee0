#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/kernels/cuda/cuda_case.h"

namespace quern::test {
namespace {

const std::vector<std::int64_t> kWidths = {1, 31, 32, 33, 127, 129, 4096};

using CudaGradientOpsTest = CudaCase;

TEST_P(CudaGradientOpsTest, GoesBackThroughNorms) {
  for (const std::int64_t width : kWidths) {
    const Twin x = values({33, width}, 1, 3.0);
    const Twin weight = values(DType::f16, {width}, 2);
    Twin dy = values({33, width}, 3);
    Twin dx = poisoned({33, width});
    cpu().gradients().rms_norm(x.cpu.view(), weight.cpu.view(), 1e-5F, dy.cpu.view(),
                               dx.cpu.view());
    cuda().gradients().rms_norm(x.cuda.view(), weight.cuda.view(), 1e-5F, dy.cuda.view(),
                                dx.cuda.view());
    // The two terms of a result may cancel: each is as large as dy * weight / |x|.
    const double sums = (8 + std::sqrt(static_cast<double>(width))) * sum_rounding();
    const double terms = magnitude(dy) * magnitude(weight);
    expect_close(dx, {rounding(), 64 * sums * std::max(terms, magnitude(dx))});
    cuda().gradients().rms_norm(x.cuda.view(), weight.cuda.view(), 1e-5F, dy.cuda.view(),
                                dy.cuda.view());
    EXPECT_EQ(cuda_values(dy.cuda), cuda_values(dx.cuda));
  }
}

TEST_P(CudaGradientOpsTest, RotatesBack) {
  for (const std::int64_t head_dim : {2, 6, 32, 48, 64, 96, 128}) {
    const Twin table = values(DType::f32, {33, head_dim}, 1, 0.5);
    Twin dx = values({99, 3 * head_dim}, 2);
    cpu().gradients().rotate(dx.cpu.view(), table.cpu.view(), head_dim);
    cuda().gradients().rotate(dx.cuda.view(), table.cuda.view(), head_dim);
    expect_close(dx, {rounding(), 8 * sum_rounding() * 16});
  }
}

TEST_P(CudaGradientOpsTest, GoesBackThroughGates) {
  for (const Activation activation : {Activation::silu, Activation::relu, Activation::gelu_tanh}) {
    for (const std::int64_t width : kWidths) {
      Twin gate = values({31, width}, 1, 4.0);
      Twin up = values({31, width}, 2);
      const Twin dh = values({31, width}, 3);
      cpu().gradients().gated_activation(gate.cpu.view(), up.cpu.view(), dh.cpu.view(), activation);
      cuda().gradients().gated_activation(gate.cuda.view(), up.cuda.view(), dh.cuda.view(),
                                          activation);
      // Terms of the derivative cancel near its zeros; see also the forward operation.
      for (const Twin* result : {&gate, &up}) {
        expect_close(*result, {rounding() + 1e3 * sum_rounding(), 256 * sum_rounding()});
      }
    }
  }
}

TEST_P(CudaGradientOpsTest, GatesStayFinite) {
  for (const Activation activation : {Activation::silu, Activation::gelu_tanh}) {
    Twin gate = stored(type(), {1, 6}, {-30000.0, -200.0, -90.0, 90.0, 200.0, 30000.0});
    Twin up = stored(type(), {1, 6}, std::vector<double>(6, 1.0));
    const Twin dh = stored(type(), {1, 6}, std::vector<double>(6, 1.0));
    cuda().gradients().gated_activation(gate.cuda.view(), up.cuda.view(), dh.cuda.view(),
                                        activation);
    const std::vector<double> slopes = cuda_values(gate.cuda);
    for (std::size_t i = 0; i < 6; ++i)
      EXPECT_NEAR(slopes[i], i < 3 ? 0.0 : 1.0, 16 * sum_rounding()) << i;
  }
}

TEST_P(CudaGradientOpsTest, GoesBackThroughTokenLosses) {
  for (const std::int64_t words : {1, 31, 33, 129, 1000, 32000}) {
    for (const DType dtype : {type(), DType::f32}) {
      const auto last = static_cast<std::int32_t>(words - 1);
      Twin logits = values(dtype, {5, words}, 1, 5.0);
      const Twin targets = integers({0, last, -1, last / 2, last});
      cpu().gradients().token_nll(logits.cpu.view(), targets.cpu.view(), 0.25F);
      cuda().gradients().token_nll(logits.cuda.view(), targets.cuda.view(), 0.25F);
      const double sums = (64 + std::sqrt(static_cast<double>(words))) * sum_rounding(dtype);
      expect_close(logits, {rounding_of(dtype) + sums, 0.25 * sums + 0.5 * sum_rounding(dtype)});
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, CudaGradientOpsTest, testing::ValuesIn(activation_types()),
                         type_name);

}  // namespace
}  // namespace quern::test
