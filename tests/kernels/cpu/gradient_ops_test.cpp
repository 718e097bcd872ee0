#include "kernels/gradient_ops.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "kernels/core/error.h"
#include "tests/kernels/cpu/cpu_ops.h"
#include "tests/kernels/cpu/finite_difference.h"

namespace quern::test {
namespace {

constexpr DType kPlainFloats[] = {DType::f64, DType::f32, DType::f16, DType::bf16};
constexpr std::int64_t kSizes[] = {1, 31, 32, 33, 127, 129, 700};
constexpr Activation kActivations[] = {Activation::silu, Activation::relu, Activation::gelu_tanh};

std::size_t at(std::int64_t index) {
  return static_cast<std::size_t>(index);
}

Tensor poison(Memory& memory, const Shape& shape) {
  std::vector<double> values(at(shape.elems()), std::nan(""));
  return store(memory, DType::f32, shape, values);
}

// Relative error (K / 16 + 24) u: two sums over lanes, products, division and root. At K = 1 the
// gradient is epsilon alone, the difference of two nearly equal terms.
TEST(RmsNormGradientTest, EqualsFiniteDifferencesAlsoInPlace) {
  constexpr std::int64_t kTokens = 3;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const std::int64_t width : kSizes) {
      CpuOps cpu(2);
      std::vector<double> x = normal_values(kTokens * width, 1, 2.0);
      std::vector<double> weight = normal_values(width, 2);
      std::vector<double> dy = normal_values(kTokens * width, 3);
      const Shape shape{kTokens, width};
      const Tensor tensor = store(cpu.memory, DType::f32, shape, x);
      const Tensor weights = store(cpu.memory, dtype, {width}, weight);
      Tensor gradient = store(cpu.memory, DType::f32, shape, dy);
      Tensor dx = poison(cpu.memory, shape);
      constexpr float kEpsilon = 0.25F;
      cpu.gradients.rms_norm(tensor.view(), weights.view(), kEpsilon, gradient.view(), dx.view());
      cpu.gradients.rms_norm(tensor.view(), weights.view(), kEpsilon, gradient.view(),
                             gradient.view());
      EXPECT_EQ(bytes_of(dx.view()), bytes_of(gradient.view()));
      const auto loss = [&](const Values& moved) {
        return weighted_sum(dy, exact_rms_norm(moved, weight, kEpsilon));
      };
      const double bound = (static_cast<double>(width) / 16.0 + 24.0) * kRounding;
      expect_gradient(loss, x, dx.view(), bound * (width == 1 ? 40.0 : 2.0));
    }
  }
}

struct LinearSize {
  std::int64_t tokens, outputs, inputs;
};

// |error| <= (N + 1) u sum |dy w|, the bound of any order of summation.
void expect_product(const LinearSize& size, DType dtype) {
  const auto [tokens, outputs, inputs] = size;
  CpuOps cpu(3);
  std::vector<double> dy = normal_values(tokens * outputs, 1);
  std::vector<double> weight = normal_values(outputs * inputs, 2);
  const Tensor gradient = store(cpu.memory, DType::f32, {tokens, outputs}, dy);
  const Tensor weights = store(cpu.memory, dtype, {outputs, inputs}, weight);
  Tensor dx = poison(cpu.memory, {tokens, inputs});
  cpu.gradients.linear(gradient.view(), weights.view(), dx.view());
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t k = 0; k < inputs; ++k) {
      double sum = 0.0;
      double magnitude = 0.0;
      for (std::int64_t n = 0; n < outputs; ++n) {
        const double term = dy[at(t * outputs + n)] * weight[at(n * inputs + k)];
        sum += term;
        magnitude += std::fabs(term);
      }
      ASSERT_NEAR(dx.view().as<float>()[t * inputs + k], sum,
                  static_cast<double>(outputs + 1) * kRounding * magnitude)
          << t << ", " << k << ", " << dtype_name(dtype);
    }
  }
}

TEST(LinearGradientTest, EqualsLoopsInDouble) {
  for (const DType dtype : kPlainFloats) {
    for (const std::int64_t size : kSizes) expect_product({size, 33, 31}, dtype);
    for (const std::int64_t size : kSizes) expect_product({3, size, 129}, dtype);
    for (const std::int64_t size : kSizes) expect_product({5, 32, size}, dtype);
    expect_product({300, 127, 290}, dtype);
    expect_product({7, 2500, 65}, dtype);
  }
}

// Relative error (N + 1) u of the largest entry, as a sum of N products.
void expect_linear_gradient(const LinearSize& size, DType dtype) {
  const auto [tokens, outputs, inputs] = size;
  CpuOps cpu(2);
  std::vector<double> dy = normal_values(tokens * outputs, 1);
  std::vector<double> weight = normal_values(outputs * inputs, 2);
  const std::vector<double> x = normal_values(tokens * inputs, 3);
  const Tensor gradient = store(cpu.memory, DType::f32, {tokens, outputs}, dy);
  const Tensor weights = store(cpu.memory, dtype, {outputs, inputs}, weight);
  Tensor dx = poison(cpu.memory, {tokens, inputs});
  cpu.gradients.linear(gradient.view(), weights.view(), dx.view());
  const auto loss = [&](const Values& moved) {
    return weighted_sum(dy, exact_linear(moved, weight, inputs));
  };
  expect_gradient(loss, x, dx.view(), static_cast<double>(outputs + 1) * kRounding);
}

TEST(LinearGradientTest, EqualsFiniteDifferences) {
  for (const DType dtype : kPlainFloats) {
    for (const std::int64_t size : kSizes) {
      expect_linear_gradient({size, 3, 5}, dtype);
      expect_linear_gradient({3, size, 5}, dtype);
      expect_linear_gradient({3, 5, size}, dtype);
    }
    expect_linear_gradient({33, 127, 65}, dtype);
  }
}

TEST(LinearGradientTest, TypeOfTheWeightDoesNotShow) {
  CpuOps cpu(2);
  std::vector<double> dy = normal_values(270 * 1500, 1);
  std::vector<double> weight = normal_values(1500 * 300, 2);
  const Tensor gradient = store(cpu.memory, DType::f32, {270, 1500}, dy);
  const Tensor narrow = store(cpu.memory, DType::bf16, {1500, 300}, weight);
  const Tensor wide = store(cpu.memory, DType::f32, {1500, 300}, weight);
  Tensor first = poison(cpu.memory, {270, 300});
  Tensor second = poison(cpu.memory, {270, 300});
  cpu.gradients.linear(gradient.view(), narrow.view(), first.view());
  cpu.gradients.linear(gradient.view(), wide.view(), second.view());
  EXPECT_EQ(bytes_of(first.view()), bytes_of(second.view()));
}

// Two products and a sum.
TEST(RotateGradientTest, EqualsFiniteDifferencesAndTurnsBack) {
  constexpr std::int64_t kHeads = 3;
  constexpr std::int64_t kPositions = 5;
  for (const std::int64_t half : {1, 16, 31, 64}) {
    CpuOps cpu(2);
    const std::int64_t dim = 2 * half;
    const Shape shape{2 * kPositions, kHeads * dim};
    std::vector<double> table;
    for (std::int64_t i = 0; i < kPositions * dim; ++i) {
      const double angle = static_cast<double>(i / dim * (1 + i % half)) * 0.37;
      table.push_back(i % dim < half ? std::cos(angle) : std::sin(angle));
    }
    std::vector<double> dy = normal_values(shape.elems(), 1);
    const std::vector<double> x = normal_values(shape.elems(), 2);
    const Tensor angles = store(cpu.memory, DType::f32, {kPositions, dim}, table);
    Tensor dx = store(cpu.memory, DType::f32, shape, dy);
    cpu.gradients.rotate(dx.view(), angles.view(), dim);
    const auto loss = [&](const Values& moved) {
      return weighted_sum(dy, exact_rotate(moved, table, dim, kHeads * dim));
    };
    expect_gradient(loss, x, dx.view(), 4.0 * kRounding);
    cpu.layers.rotate(dx.view(), angles.view(), dim);
    for (std::int64_t i = 0; i < shape.elems(); ++i) {
      ASSERT_NEAR(dx.view().as<float>()[i], dy[at(i)], 40.0 * kRounding);
    }
  }
}

// Relative error 40 u of the largest entry; relu's kink is kept out of reach of the differences.
TEST(GatedActivationGradientTest, EqualsFiniteDifferences) {
  for (const Activation activation : kActivations) {
    for (const std::int64_t size : kSizes) {
      CpuOps cpu(2);
      std::vector<double> gate = normal_values(size, 1, 2.0);
      std::vector<double> up = normal_values(size, 2);
      std::vector<double> dh = normal_values(size, 3);
      for (double& value : gate) value += std::copysign(0.05, value);
      Tensor gates = store(cpu.memory, DType::f32, {1, size}, gate);
      Tensor ups = store(cpu.memory, DType::f32, {1, size}, up);
      const Tensor gradient = store(cpu.memory, DType::f32, {1, size}, dh);
      cpu.gradients.gated_activation(gates.view(), ups.view(), gradient.view(), activation);
      const auto by_gate = [&](const Values& moved) {
        return weighted_sum(dh, exact_gated_activation(moved, up, activation));
      };
      const auto by_up = [&](const Values& moved) {
        return weighted_sum(dh, exact_gated_activation(gate, moved, activation));
      };
      expect_gradient(by_gate, gate, gates.view(), 40.0 * kRounding);
      expect_gradient(by_up, up, ups.view(), 40.0 * kRounding);
    }
  }
}

TEST(GatedActivationGradientTest, IsFlatOrStraightFarFromZero) {
  for (const Activation activation : kActivations) {
    CpuOps cpu;
    std::vector<double> gate = {-3e38, -1e15, -200.0, -90.0, 90.0, 200.0, 1e15, 3e38};
    std::vector<double> ones(8, 1.0);
    Tensor gates = store(cpu.memory, DType::f32, {1, 8}, gate);
    Tensor ups = store(cpu.memory, DType::f32, {1, 8}, ones);
    const Tensor gradient = store(cpu.memory, DType::f32, {1, 8}, ones);
    cpu.gradients.gated_activation(gates.view(), ups.view(), gradient.view(), activation);
    for (std::int64_t i = 0; i < 8; ++i) {
      EXPECT_NEAR(gates.view().as<float>()[i], i < 4 ? 0.0 : 1.0, 1e-6) << gate[at(i)];
      if (i < 4) continue;
      EXPECT_EQ(ups.view().as<float>()[i], static_cast<float>(gate[at(i)]));
    }
  }
}

// |error| <= (80 + 2 max |logit|) u of the scale, as for token_nll.
TEST(TokenNllGradientTest, EqualsFiniteDifferences) {
  constexpr std::int64_t kTokens = 6;
  for (const std::int64_t words : {1, 31, 32, 33, 127, 129, 1025}) {
    for (const double spread : {1.0, 10.0}) {
      CpuOps cpu(2);
      std::vector<double> logits = normal_values(kTokens * words, 1, spread);
      Tensor tensor = store(cpu.memory, DType::f32, {kTokens, words}, logits);
      std::vector<std::int32_t> targets = {0, static_cast<std::int32_t>(words - 1), -1, -100};
      targets.resize(kTokens, static_cast<std::int32_t>(words / 2));
      const Tensor target_tensor = store_integers(cpu.memory, DType::i32, targets);
      cpu.gradients.token_nll(tensor.view(), target_tensor.view(), 0.125F);
      const auto loss = [&](const Values& moved) {
        const Values losses = exact_token_nll(moved, targets, words);
        return 0.125 * std::accumulate(losses.begin(), losses.end(), 0.0);
      };
      if (words == 1) {
        for (std::int64_t t = 0; t < kTokens; ++t) EXPECT_EQ(tensor.view().as<float>()[t], 0.0F);
        continue;
      }
      const double largest =
          std::fabs(*std::ranges::max_element(logits, {}, [](double v) { return std::fabs(v); }));
      expect_gradient(loss, logits, tensor.view(), (80.0 + 2.0 * largest) * kRounding);
      const float* skipped = tensor.view().as<float>() + 2 * words;
      EXPECT_EQ(std::count(skipped, skipped + 2 * words, 0.0F), 2 * words);
    }
  }
}

TEST(GradientOpsThreadsTest, BitsDoNotDependOnThreads) {
  EXPECT_TRUE(same_bytes_on_any_threads([](CpuOps& cpu) {
    const Shape shape{70, 640};
    std::vector<double> values = normal_values(shape.elems(), 1);
    std::vector<double> scales = normal_values(640, 2);
    std::vector<double> weight = normal_values(640 * 600, 3);
    std::vector<double> angles = normal_values(35 * 64, 4);
    const Tensor x = store(cpu.memory, DType::f32, shape, values);
    Tensor up = store(cpu.memory, DType::f32, shape, values);
    Tensor dx = store(cpu.memory, DType::f32, shape, values);
    const Tensor scale_tensor = store(cpu.memory, DType::bf16, {640}, scales);
    const Tensor table = store(cpu.memory, DType::f32, {35, 64}, angles);
    const Tensor weights = store(cpu.memory, DType::bf16, {640, 600}, weight);
    cpu.gradients.rms_norm(x.view(), scale_tensor.view(), 1e-6F, dx.view(), dx.view());
    cpu.gradients.rotate(dx.view(), table.view(), 64);
    cpu.gradients.gated_activation(dx.view(), up.view(), x.view(), Activation::silu);
    const Tensor targets = store_integers(cpu.memory, DType::i32, std::vector<std::int32_t>(70, 3));
    cpu.gradients.token_nll(up.view(), targets.view(), 0.5F);
    cpu.layers.add(dx.view(), up.view());
    Tensor last = poison(cpu.memory, {70, 600});
    cpu.gradients.linear(dx.view(), weights.view(), last.view());
    return bytes_of(last.view());
  }));
}

TEST(GradientOpsShapeTest, RefusesWhatDoesNotFit) {
  CpuOps cpu;
  Tensor x = cpu.memory.allocate(DType::f32, {4, 12});
  Tensor other = cpu.memory.allocate(DType::f32, {4, 11});
  Tensor half = cpu.memory.allocate(DType::f16, {4, 12});
  const Tensor weight = cpu.memory.allocate(DType::f32, {12});
  const Tensor integers = cpu.memory.allocate(DType::i32, {4});
  const Tensor short_targets = cpu.memory.allocate(DType::i32, {3});
  GradientOps& ops = cpu.gradients;
  const auto norm = [&](const Tensor& in, const Tensor& dy, Tensor& dx) {
    ops.rms_norm(in.view(), weight.view(), 0.0F, dy.view(), dx.view());
  };
  EXPECT_THROW(norm(x, other, x), ShapeError);
  EXPECT_THROW(norm(x, x, half), ShapeError);
  EXPECT_THROW(norm(other, other, other), ShapeError);
  EXPECT_THROW(norm(half, half, half), ShapeError);
  EXPECT_THROW(ops.linear(x.view(), x.view(), x.view()), ShapeError);
  EXPECT_THROW(ops.linear(other.view(), weight.view(), x.view()), ShapeError);
  EXPECT_THROW(ops.linear(x.view(), cpu.memory.allocate(DType::f32, {12, 11}).view(), x.view()),
               ShapeError);
  EXPECT_THROW(
      ops.linear(half.view(), cpu.memory.allocate(DType::f32, {12, 11}).view(), other.view()),
      ShapeError);
  EXPECT_THROW(ops.rotate(x.view(), x.view(), 6), ShapeError);
  EXPECT_THROW(ops.rotate(x.view(), half.view(), 12), ShapeError);
  EXPECT_THROW(ops.rotate(half.view(), x.view(), 12), ShapeError);
  const auto gated = [&](Tensor& gate, Tensor& up, Tensor& dh) {
    ops.gated_activation(gate.view(), up.view(), dh.view(), Activation::silu);
  };
  EXPECT_THROW(gated(x, x, other), ShapeError);
  EXPECT_THROW(gated(x, half, x), ShapeError);
  EXPECT_THROW(gated(half, half, half), ShapeError);
  EXPECT_THROW(ops.token_nll(x.view(), weight.view(), 1.0F), ShapeError);
  EXPECT_THROW(ops.token_nll(x.view(), short_targets.view(), 1.0F), ShapeError);
  EXPECT_THROW(ops.token_nll(half.view(), integers.view(), 1.0F), ShapeError);
}

}  // namespace
}  // namespace quern::test
