#include <gtest/gtest.h>

#include <cmath>
#include <optional>

#include "tests/kernels/cuda/cuda_case.h"

namespace quern::test {
namespace {

struct Extents {
  std::int64_t tokens, outputs, inputs;
};

const std::vector<Extents> kExtents = {{1, 1, 1},      {31, 33, 32},    {32, 127, 33},
                                       {33, 32, 129},  {127, 31, 31},   {129, 129, 127},
                                       {1, 512, 2048}, {300, 700, 1024}};

class CudaLinearTest : public CudaCase {
 protected:
  /// Rounding of a sum of `terms` products of unit normals, and of the result to its type. Errors
  /// of a sum grow like the square root of its terms, and so does the sum itself.
  Tolerance of_sum(std::int64_t terms, double result_rounding) const {
    const auto n = static_cast<double>(terms);
    return {result_rounding, (4 * std::sqrt(n) * n * 0.64 + 4) * sum_rounding()};
  }

  /// A poisoned result of CUDA in a type of its own; the CPU's has the type of its activations.
  Twin poisoned_result(DType dtype, const Shape& shape) {
    return {poisoned(shape).cpu, poisoned(dtype, shape).cuda};
  }
};

TEST_P(CudaLinearTest, MultipliesWithAndWithoutBias) {
  for (const auto& [tokens, outputs, inputs] : kExtents) {
    const Twin x = values({tokens, inputs}, 1);
    const Twin weight = values({outputs, inputs}, 2);
    const Twin bias = values({outputs}, 3);
    for (const bool biased : {false, true}) {
      for (const DType result : {type(), DType::f32}) {
        Twin out = poisoned_result(result, {tokens, outputs});
        const auto cpu_bias = biased ? std::optional(bias.cpu.view()) : std::nullopt;
        const auto cuda_bias = biased ? std::optional(bias.cuda.view()) : std::nullopt;
        cpu().layers().linear(x.cpu.view(), weight.cpu.view(), cpu_bias, out.cpu.view());
        cuda().layers().linear(x.cuda.view(), weight.cuda.view(), cuda_bias, out.cuda.view());
        expect_close(out, of_sum(inputs, rounding_of(result)));
      }
    }
  }
}

TEST_P(CudaLinearTest, TakesWeightsOfAnyType) {
  const Twin x = values({33, 129}, 1);
  // Values of few bits, which every type holds.
  std::vector<double> few;
  for (int i = 0; i < 65 * 129; ++i) few.push_back((i * 7 % 31 - 15) / 16.0);
  for (const DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16}) {
    const Twin weight = stored(dtype, {65, 129}, few);
    Twin out = poisoned({33, 65});
    cpu().layers().linear(x.cpu.view(), weight.cpu.view(), std::nullopt, out.cpu.view());
    cuda().layers().linear(x.cuda.view(), weight.cuda.view(), std::nullopt, out.cuda.view());
    expect_close(out, of_sum(129, rounding()));
  }
}

/// A bias that the result's type does not hold may be rounded to it before it is added.
TEST_P(CudaLinearTest, TakesABiasOfAnyType) {
  const Twin x = values({33, 129}, 1);
  const Twin weight = values({65, 129}, 2);
  for (const DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16}) {
    const Twin bias = values(dtype, {65}, 3);
    for (const DType result : {type(), DType::f32}) {
      Twin out = poisoned_result(result, {33, 65});
      cpu().layers().linear(x.cpu.view(), weight.cpu.view(), bias.cpu.view(), out.cpu.view());
      cuda().layers().linear(x.cuda.view(), weight.cuda.view(), bias.cuda.view(), out.cuda.view());
      Tolerance tolerance = of_sum(129, rounding_of(result));
      tolerance.absolute += rounding_of(result) * magnitude(bias);
      expect_close(out, tolerance);
    }
  }
}

/// Rows of 129 and 65 elements: every view lies at an odd multiple of its element's size.
TEST_P(CudaLinearTest, TakesViewsThatAreNotAligned) {
  const Twin x = values({34, 129}, 1);
  const Twin weight = values({66, 129}, 2);
  const Twin bias = values({66}, 3);
  Tensor all = cuda().memory().allocate(type(), {34, 65});
  Twin out = poisoned({33, 65});
  cpu().layers().linear(x.cpu.view().rows(1, 33), weight.cpu.view().rows(1, 65),
                        bias.cpu.view().rows(1, 65), out.cpu.view());
  cuda().layers().linear(x.cuda.view().rows(1, 33), weight.cuda.view().rows(1, 65),
                         bias.cuda.view().rows(1, 65), all.view().rows(1, 33));
  cuda().memory().copy(all.view().rows(1, 33), out.cuda.view());
  expect_close(out, of_sum(129, rounding()));
}

TEST_P(CudaLinearTest, GoesBack) {
  for (const auto& [tokens, outputs, inputs] : kExtents) {
    const Twin dy = values({tokens, outputs}, 1);
    const Twin weight = values({outputs, inputs}, 2);
    Twin dx = poisoned({tokens, inputs});
    cpu().gradients().linear(dy.cpu.view(), weight.cpu.view(), dx.cpu.view());
    cuda().gradients().linear(dy.cuda.view(), weight.cuda.view(), dx.cuda.view());
    expect_close(dx, of_sum(outputs, rounding()));
  }
}

TEST_P(CudaLinearTest, RepeatsItsBits) {
  const Twin x = values({512, 1024}, 1);
  const Twin weight = values({256, 1024}, 2);
  const Twin bias = values({256}, 3);
  Twin out = poisoned({512, 256});
  for (const bool biased : {false, true}) {
    const auto addend = biased ? std::optional(bias.cuda.view()) : std::nullopt;
    cuda().layers().linear(x.cuda.view(), weight.cuda.view(), addend, out.cuda.view());
    const HostTensor once = cuda().memory().to_host(out.cuda.view());
    for (int round = 0; round < 5; ++round) {
      cuda().layers().linear(x.cuda.view(), weight.cuda.view(), addend, out.cuda.view());
      EXPECT_EQ(cuda().memory().to_host(out.cuda.view()).bytes, once.bytes);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, CudaLinearTest, testing::ValuesIn(activation_types()), type_name);

}  // namespace
}  // namespace quern::test
