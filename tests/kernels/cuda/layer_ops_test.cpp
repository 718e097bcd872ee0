#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/kernels/cuda/cuda_case.h"

namespace quern::test {
namespace {

// Widths that fill packs of 8 and that do not, and a large one.
const std::vector<std::int64_t> kWidths = {1, 31, 32, 33, 127, 129, 4096};

class CudaLayerOpsTest : public CudaCase {
 protected:
  /// One rounding to the activation type and a few in the type of sums.
  Tolerance elementwise() const { return {rounding() + 8 * sum_rounding(), 1e-30}; }
};

TEST_P(CudaLayerOpsTest, ConvertsLikeTheCpu) {
  constexpr float kHuge = std::numeric_limits<float>::max();
  constexpr float kInfinite = std::numeric_limits<float>::infinity();
  std::vector<float> floats = {0.0F,       -0.0F,    1.0F + 0x1p-8F, 1.0F + 0x1p-11F,
                               65519.0F,   65520.0F, 0x1p-25F,       0x1.8p-25F,
                               -0x1p-140F, kHuge,    kInfinite,      -kInfinite};
  for (int i = 0; i < 1000; ++i)
    floats.push_back(std::ldexp(std::sin(static_cast<float>(i)), i % 40 - 20));
  const Shape shape{static_cast<std::int64_t>(floats.size())};
  for (const DType from : {DType::f64, DType::f32, DType::f16, DType::bf16}) {
    HostTensor source(DType::f32, shape);
    std::ranges::copy(floats, source.as<float>().begin());
    const Tensor exact = cpu().memory().to_device(source);
    Tensor in = cpu().memory().allocate(from, shape);
    cpu().layers().convert(exact.view(), in.view());
    const Tensor cuda_in = cuda().memory().to_device(cpu().memory().to_host(in.view()));
    for (const DType to : {DType::f64, DType::f32, DType::f16, DType::bf16}) {
      Tensor expected = cpu().memory().allocate(to, shape);
      cpu().layers().convert(in.view(), expected.view());
      Tensor out = cuda().memory().allocate(to, shape);
      cuda().layers().convert(cuda_in.view(), out.view());
      EXPECT_EQ(cuda().memory().to_host(out.view()).bytes,
                cpu().memory().to_host(expected.view()).bytes)
          << dtype_name(from) << " to " << dtype_name(to);
    }
  }
}

TEST_P(CudaLayerOpsTest, RoundsDoublesOnce) {
  // Rounded to float first these would tie, and go the other way.
  HostTensor host(DType::f64, {2});
  host.as<double>()[0] = 1.0 + 0x1p-8 + 0x1p-40;
  host.as<double>()[1] = 1.0 + 0x1p-11 + 0x1p-40;
  const Tensor in = cuda().memory().to_device(host);
  for (const auto& [to, element] : {std::pair{DType::bf16, 0}, std::pair{DType::f16, 1}}) {
    Tensor out = cuda().memory().allocate(to, {2});
    cuda().layers().convert(in.view(), out.view());
    const double step = to == DType::bf16 ? 0x1p-7 : 0x1p-10;
    EXPECT_EQ(cuda_values(out)[static_cast<std::size_t>(element)], 1.0 + step);
  }
}

TEST_P(CudaLayerOpsTest, CountsNonfinite) {
  for (const std::int64_t size : {1, 31, 33, 129, 3000000}) {
    std::vector<double> numbers(static_cast<std::size_t>(size), 1.0);
    numbers[0] = std::numeric_limits<double>::quiet_NaN();
    numbers.back() = -std::numeric_limits<double>::infinity();
    const Twin x = stored(type(), {size}, numbers);
    HostTensor seven(DType::i64, {1});
    seven.as<std::int64_t>()[0] = 7;
    Tensor count = cuda().memory().to_device(seven);
    cuda().layers().count_nonfinite(x.cuda.view(), count.view());
    EXPECT_EQ(cuda().memory().to_host(count.view()).as<std::int64_t>()[0], size == 1 ? 8 : 9);
  }
}

TEST_P(CudaLayerOpsTest, Embeds) {
  for (const std::int64_t width : kWidths) {
    for (const DType stored_type : {DType::f64, DType::f32, DType::f16, DType::bf16}) {
      const Twin table = values(stored_type, {50, width}, 1);
      const Twin ids = integers({49, 0, 7, 7, 31});
      Twin out = poisoned({5, width});
      cpu().layers().embed(table.cpu.view(), ids.cpu.view(), out.cpu.view());
      cuda().layers().embed(table.cuda.view(), ids.cuda.view(), out.cuda.view());
      expect_close(out, {rounding(), 0.5 * sum_rounding()});
    }
  }
}

TEST_P(CudaLayerOpsTest, Norms) {
  for (const std::int64_t width : kWidths) {
    const Twin x = values({33, width}, 1, 3.0);
    const Twin weight = values(DType::bf16, {width}, 2);
    Twin out = poisoned({33, width});
    cpu().layers().rms_norm(x.cpu.view(), weight.cpu.view(), 1e-5F, out.cpu.view());
    cuda().layers().rms_norm(x.cuda.view(), weight.cuda.view(), 1e-5F, out.cuda.view());
    const double sums = std::sqrt(static_cast<double>(width)) * sum_rounding();
    expect_close(out, {rounding() + sums + 8 * sum_rounding(), 2 * sum_rounding()});
    Twin in_place = values({33, width}, 1, 3.0);
    cuda().layers().rms_norm(in_place.cuda.view(), weight.cuda.view(), 1e-5F, in_place.cuda.view());
    EXPECT_EQ(cuda_values(in_place.cuda), cuda_values(out.cuda));
  }
}

TEST_P(CudaLayerOpsTest, Rotates) {
  for (const std::int64_t head_dim : {2, 6, 32, 48, 64, 96, 128}) {
    const Twin table = values(DType::f32, {33, head_dim}, 1, 0.5);
    Twin x = values({99, 3 * head_dim}, 2);
    cpu().layers().rotate(x.cpu.view(), table.cpu.view(), head_dim);
    cuda().layers().rotate(x.cuda.view(), table.cuda.view(), head_dim);
    expect_close(x, {rounding(), 8 * sum_rounding() * 16});
  }
}

TEST_P(CudaLayerOpsTest, Gates) {
  for (const Activation activation : {Activation::silu, Activation::relu, Activation::gelu_tanh}) {
    for (const std::int64_t width : kWidths) {
      Twin gate = values({31, width}, 1, 4.0);
      const Twin up = values({31, width}, 2);
      cpu().layers().gated_activation(gate.cpu.view(), up.cpu.view(), activation);
      cuda().layers().gated_activation(gate.cuda.view(), up.cuda.view(), activation);
      // The argument of a sigmoid, at most 2 |x|^3 or so, is rounded before its exponential.
      expect_close(gate, {rounding() + 1e3 * sum_rounding(), sum_rounding()});
    }
  }
}

TEST_P(CudaLayerOpsTest, Adds) {
  for (const std::int64_t width : kWidths) {
    Twin x = values({33, width}, 1);
    const Twin delta = values({33, width}, 2);
    cpu().layers().add(x.cpu.view(), delta.cpu.view());
    cuda().layers().add(x.cuda.view(), delta.cuda.view());
    expect_close(x, elementwise());
  }
}

TEST_P(CudaLayerOpsTest, MovesViewsThatBeginAnywhere) {
  Twin x = values({9, 33}, 1);
  const Twin delta = values({9, 33}, 2);
  cpu().layers().add(x.cpu.view().rows(1, 7), delta.cpu.view().rows(2, 7));
  cuda().layers().add(x.cuda.view().rows(1, 7), delta.cuda.view().rows(2, 7));
  expect_close(x, elementwise());
}

TEST_P(CudaLayerOpsTest, FindsTokenLosses) {
  for (const std::int64_t words : {1, 31, 33, 129, 1000, 32000}) {
    for (const DType dtype : {type(), DType::f32}) {
      const auto last = static_cast<std::int32_t>(words - 1);
      const Twin logits = values(dtype, {5, words}, 1, 5.0);
      const Twin targets = integers({0, last, -1, last / 2, last});
      Twin nll = poisoned(DType::f32, {5});
      cpu().layers().token_nll(logits.cpu.view(), targets.cpu.view(), nll.cpu.view());
      cuda().layers().token_nll(logits.cuda.view(), targets.cuda.view(), nll.cuda.view());
      const double sums = (64 + std::sqrt(static_cast<double>(words))) * sum_rounding(dtype);
      // Losses in double differ so little that the same float is next to them.
      expect_close(nll, {dtype == DType::f64 ? 0.0 : 4 * kFloatRounding, sums});
      EXPECT_EQ(cuda_values(nll.cuda)[2], 0.0);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, CudaLayerOpsTest, testing::ValuesIn(activation_types()), type_name);

}  // namespace
}  // namespace quern::test
