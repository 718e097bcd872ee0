#include <gtest/gtest.h>

#include "kernels/core/error.h"
#include "tests/kernels/cpu/cpu_ops.h"

namespace quern::test {
namespace {

struct LinearSize {
  std::int64_t tokens, outputs, inputs;
};

class LinearTest : public testing::TestWithParam<std::tuple<LinearSize, DType, bool>> {};

// |error| <= (K + 2) u / (1 - (K + 2) u) sum |x w|, u = 2^-24: any order of K products and a bias.
TEST_P(LinearTest, EqualsLoopsInDouble) {
  const auto [size, dtype, with_bias] = GetParam();
  const auto [tokens, outputs, inputs] = size;
  CpuOps cpu(2);
  std::vector<double> x = normal_values(tokens * inputs, 1);
  std::vector<double> w = normal_values(outputs * inputs, 2, 0.1);
  std::vector<double> b = normal_values(outputs, 3);
  const Tensor x_tensor = store(cpu.memory, DType::f32, {tokens, inputs}, x);
  const Tensor w_tensor = store(cpu.memory, dtype, {outputs, inputs}, w);
  const Tensor b_tensor = store(cpu.memory, dtype, {outputs}, b);
  std::vector<double> poison(static_cast<std::size_t>(tokens * outputs), NAN);
  Tensor out = store(cpu.memory, DType::f32, {tokens, outputs}, poison);
  cpu.layers.linear(x_tensor.view(), w_tensor.view(),
                    with_bias ? std::optional(b_tensor.view()) : std::nullopt, out.view());
  // f64 weights are rounded to float once more.
  const double bound = static_cast<double>(inputs + 3) * kRounding * 1.001;
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t n = 0; n < outputs; ++n) {
      double exact = with_bias ? b[static_cast<std::size_t>(n)] : 0.0;
      double magnitude = std::fabs(exact);
      for (std::int64_t k = 0; k < inputs; ++k) {
        const double term = x[static_cast<std::size_t>(t * inputs + k)] *
                            w[static_cast<std::size_t>(n * inputs + k)];
        exact += term;
        magnitude += std::fabs(term);
      }
      const double got = out.view().as<float>()[t * outputs + n];
      ASSERT_LE(std::fabs(got - exact), bound * magnitude) << t << ", " << n;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Sizes, LinearTest,
    testing::Combine(testing::Values(LinearSize{1, 1, 1}, LinearSize{1, 33, 127},
                                     LinearSize{31, 32, 33}, LinearSize{32, 31, 129},
                                     LinearSize{33, 127, 32}, LinearSize{127, 129, 31},
                                     LinearSize{129, 1, 127}, LinearSize{300, 520, 257}),
                     testing::Values(DType::f32, DType::bf16, DType::f16, DType::f64),
                     testing::Bool()));

TEST(LinearThreadsTest, BitsDoNotDependOnThreads) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    EXPECT_TRUE(same_bytes_on_any_threads([&](CpuOps& cpu) {
      std::vector<double> x = normal_values(600 * 333, 1);
      std::vector<double> w = normal_values(700 * 333, 2);
      const Tensor x_tensor = store(cpu.memory, DType::f32, {600, 333}, x);
      const Tensor w_tensor = store(cpu.memory, dtype, {700, 333}, w);
      Tensor out = cpu.memory.allocate(DType::f32, {600, 700});
      cpu.layers.linear(x_tensor.view(), w_tensor.view(), std::nullopt, out.view());
      return bytes_of(out.view());
    }));
  }
}

TEST(LinearAlignmentTest, BitsDoNotDependOnAlignment) {
  CpuOps cpu(2);
  std::vector<double> x = normal_values(66 * 129, 1);
  std::vector<double> w = normal_values(300 * 129, 2);
  const Tensor shifted = store(cpu.memory, DType::f32, {66, 129}, x);
  const Tensor weight = store(cpu.memory, DType::f32, {300, 129}, w);
  Tensor aligned = cpu.memory.allocate(DType::f32, {65, 129});
  cpu.memory.copy(shifted.view().rows(1, 65), aligned.view());
  Tensor first = cpu.memory.allocate(DType::f32, {65, 300});
  Tensor second = cpu.memory.allocate(DType::f32, {65, 300});
  cpu.layers.linear(aligned.view(), weight.view(), std::nullopt, first.view());
  cpu.layers.linear(shifted.view().rows(1, 65), weight.view(), std::nullopt, second.view());
  EXPECT_EQ(bytes_of(first.view()), bytes_of(second.view()));
}

TEST(LinearShapeTest, RefusesWhatDoesNotFit) {
  CpuOps cpu;
  const auto make = [&](DType dtype, const Shape& shape) {
    return cpu.memory.allocate(dtype, shape);
  };
  const Tensor x = make(DType::f32, {3, 8});
  const Tensor weight = make(DType::f32, {5, 8});
  Tensor out = make(DType::f32, {3, 5});
  const auto linear = [&](const Tensor& in, const Tensor& by, Tensor& into) {
    cpu.layers.linear(in.view(), by.view(), std::nullopt, into.view());
  };
  EXPECT_THROW(linear(x, make(DType::f32, {5, 7}), out), ShapeError);
  EXPECT_THROW(linear(x, make(DType::i32, {5, 8}), out), ShapeError);
  EXPECT_THROW(linear(x, make(DType::f8_e4m3, {5, 8}), out), ShapeError);
  EXPECT_THROW(linear(x, make(DType::f32, {40}), out), ShapeError);
  EXPECT_THROW(linear(make(DType::f32, {4, 8}), weight, out), ShapeError);
  EXPECT_THROW(linear(make(DType::bf16, {3, 8}), weight, out), ShapeError);
  Tensor narrow = make(DType::f16, {3, 5});
  EXPECT_THROW(linear(x, weight, narrow), ShapeError);
  EXPECT_THROW(cpu.layers.linear(x.view(), weight.view(), make(DType::f32, {3}).view(), out.view()),
               ShapeError);
  Tensor none = make(DType::f32, {0, 5});
  EXPECT_NO_THROW(linear(make(DType::f32, {0, 8}), weight, none));
}

}  // namespace
}  // namespace quern::test
