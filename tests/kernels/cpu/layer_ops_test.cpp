#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "kernels/core/error.h"
#include "tests/kernels/cpu/cpu_ops.h"

namespace quern::test {
namespace {

constexpr DType kPlainFloats[] = {DType::f64, DType::f32, DType::f16, DType::bf16};
constexpr std::int64_t kSizes[] = {1, 31, 32, 33, 127, 129, 5003};
constexpr double kInfinity = std::numeric_limits<double>::infinity();
const double kNan = std::nan("");

std::size_t at(std::int64_t index) {
  return static_cast<std::size_t>(index);
}

Tensor store_f64(Memory& memory, std::vector<double> values) {
  return store(memory, DType::f64, {static_cast<std::int64_t>(values.size())}, values);
}

std::vector<double> read(CpuOps& cpu, ConstTensorView view) {
  Tensor wide = cpu.memory.allocate(DType::f64, view.shape);
  cpu.layers.convert(view, wide.view());
  const auto* values = wide.view().as<double>();
  return {values, values + view.elems()};
}

TEST(ConvertTest, AgreesWithScalarConversionsForAllTypes) {
  CpuOps cpu(2);
  for (const DType from : kPlainFloats) {
    for (const DType to : kPlainFloats) {
      for (const std::int64_t size : kSizes) {
        std::vector<double> values = normal_values(size, 5, 3.0);
        const Tensor in = store(cpu.memory, from, {size}, values);
        for (double& value : values) value = static_cast<float>(value);
        Tensor out = cpu.memory.allocate(to, {size});
        cpu.layers.convert(in.view(), out.view());
        if (to == DType::f64) continue;  // below: f64 is not exact in `values`
        const Tensor expected = store(cpu.memory, to, {size}, values);
        ASSERT_EQ(bytes_of(out.view()), bytes_of(expected.view()))
            << dtype_name(from) << " to " << dtype_name(to) << ", " << size;
      }
    }
  }
}

TEST(ConvertTest, WidensToDoubleExactly) {
  CpuOps cpu;
  for (const DType from : kPlainFloats) {
    std::vector<double> values = normal_values(100, 5);
    values.insert(values.end(), {0.0, -0.0, kInfinity, -kInfinity, 0x1p-24});
    const Tensor in = store(cpu.memory, from, {105}, values);
    EXPECT_EQ(read(cpu, in.view()), values) << dtype_name(from);
  }
}

TEST(ConvertTest, RoundsDoublesOnce) {
  CpuOps cpu;
  // Just above or below a tie of the narrow type, but on it after a first rounding to float.
  const std::vector<double> values = {1.0 + 0x1p-11 + 0x1p-40,
                                      1.0 + 0x1p-11 - 0x1p-40,
                                      1.0 + 0x1p-8 + 0x1p-40,
                                      1.0 + 0x1p-8 - 0x1p-40,
                                      -1.0 - 0x1p-8 - 0x1p-40,
                                      65520.0 - 1e-9,
                                      0x1p-25 + 0x1p-70,
                                      1e300,
                                      kNan};
  const Tensor in = store_f64(cpu.memory, values);
  Tensor half = cpu.memory.allocate(DType::f16, {9});
  Tensor brain = cpu.memory.allocate(DType::bf16, {9});
  cpu.layers.convert(in.view(), half.view());
  cpu.layers.convert(in.view(), brain.view());
  const std::vector<double> halves = read(cpu, half.view());
  const std::vector<double> brains = read(cpu, brain.view());
  EXPECT_EQ(halves[0], 1.0 + 0x1p-10);
  EXPECT_EQ(halves[1], 1.0);
  EXPECT_EQ(brains[2], 1.0 + 0x1p-7);
  EXPECT_EQ(brains[3], 1.0);
  EXPECT_EQ(brains[4], -1.0 - 0x1p-7);
  EXPECT_EQ(halves[5], 65504.0);
  EXPECT_EQ(halves[6], 0x1p-24);
  EXPECT_EQ(halves[7], kInfinity);
  EXPECT_EQ(brains[7], kInfinity);
  EXPECT_TRUE(std::isnan(halves[8]) && std::isnan(brains[8]));
}

TEST(CountNonfiniteTest, AddsToTheCount) {
  CpuOps cpu(3);
  for (const DType dtype : kPlainFloats) {
    std::vector<double> values = normal_values(40000, 1);
    for (const std::int64_t i : {0, 511, 512, 16384, 39999})
      values[at(i)] = i % 2 ? kNan : -kInfinity;
    const Tensor x = store(cpu.memory, dtype, {200, 200}, values);
    Tensor count = store_integers<std::int64_t>(cpu.memory, DType::i64, {7});
    cpu.layers.count_nonfinite(x.view(), count.view());
    EXPECT_EQ(*count.view().as<std::int64_t>(), 12) << dtype_name(dtype);
  }
  const Tensor large = store_f64(cpu.memory, {1e300, -1e300});
  Tensor count = store_integers<std::int64_t>(cpu.memory, DType::i64, {0});
  cpu.layers.count_nonfinite(large.view(), count.view());
  EXPECT_EQ(*count.view().as<std::int64_t>(), 0);
}

TEST(EmbedTest, CopiesRowsOfTheTable) {
  for (const DType dtype : kPlainFloats) {
    CpuOps cpu(2);
    std::vector<double> table = normal_values(50 * 33, 1);
    const Tensor stored = store(cpu.memory, dtype, {50, 33}, table);
    const std::vector<std::int32_t> ids = {49, 0, 7, 7, 31};
    const Tensor id_tensor = store_integers(cpu.memory, DType::i32, ids);
    Tensor out = cpu.memory.allocate(DType::f32, {5, 33});
    cpu.layers.embed(stored.view(), id_tensor.view(), out.view());
    for (std::int64_t i = 0; i < 5 * 33; ++i) {
      const auto row = static_cast<std::int64_t>(ids[at(i / 33)]);
      ASSERT_EQ(out.view().as<float>()[i], static_cast<float>(table[at(row * 33 + i % 33)]));
    }
  }
}

// |error| <= (K / 16 + 12) u |out|: lanes of the sum, their folding, division, root and products.
TEST(RmsNormTest, EqualsLoopsInDoubleAlsoInPlace) {
  constexpr std::int64_t kTokens = 9;
  for (const DType dtype : kPlainFloats) {
    for (const std::int64_t width : kSizes) {
      CpuOps cpu(2);
      std::vector<double> x = normal_values(kTokens * width, 1, 2.0);
      std::vector<double> weight = normal_values(width, 2);
      Tensor tensor = store(cpu.memory, DType::f32, {kTokens, width}, x);
      const Tensor weight_tensor = store(cpu.memory, dtype, {width}, weight);
      Tensor apart = cpu.memory.allocate(DType::f32, {kTokens, width});
      cpu.layers.rms_norm(tensor.view(), weight_tensor.view(), 1e-5F, apart.view());
      cpu.layers.rms_norm(tensor.view(), weight_tensor.view(), 1e-5F, tensor.view());
      ASSERT_EQ(bytes_of(apart.view()), bytes_of(tensor.view()));
      const double bound = (static_cast<double>(width) / 16.0 + 12.0) * kRounding;
      for (std::int64_t t = 0; t < kTokens; ++t) {
        double squares = 0.0;
        for (std::int64_t i = 0; i < width; ++i)
          squares += x[at(t * width + i)] * x[at(t * width + i)];
        const double inverse =
            1.0 / std::sqrt(squares / static_cast<double>(width) + static_cast<double>(1e-5F));
        for (std::int64_t i = 0; i < width; ++i) {
          const double exact = x[at(t * width + i)] * inverse * weight[at(i)];
          ASSERT_NEAR(apart.view().as<float>()[t * width + i], exact, bound * std::fabs(exact));
        }
      }
    }
  }
}

// |error| <= 2 u (|x1| + |x2|): two products, one sum.
TEST(RotateTest, TurnsPairsHalfAHeadApart) {
  constexpr std::int64_t kHeads = 3;
  for (const std::int64_t half : {1, 16, 31, 64}) {
    CpuOps cpu(2);
    const std::int64_t dim = 2 * half;
    constexpr std::int64_t kPositions = 5;
    constexpr std::int64_t kTokens = 3 * kPositions;
    std::vector<double> table;
    for (std::int64_t i = 0; i < kPositions * dim; ++i) {
      const auto position = static_cast<double>(i / dim);
      const double angle =
          position * std::pow(10000.0, -static_cast<double>(i % half) / static_cast<double>(half));
      table.push_back(i % dim < half ? std::cos(angle) : std::sin(angle));
    }
    std::vector<double> x = normal_values(kTokens * kHeads * dim, 1);
    const Tensor table_tensor = store(cpu.memory, DType::f32, {kPositions, dim}, table);
    Tensor tensor = store(cpu.memory, DType::f32, {kTokens, kHeads * dim}, x);
    cpu.layers.rotate(tensor.view(), table_tensor.view(), dim);
    for (std::int64_t i = 0; i < kTokens * kHeads * dim; ++i) {
      const std::int64_t lane = i % dim;
      const std::int64_t position = i / (kHeads * dim) % kPositions;
      const double cosine = table[at(position * dim + lane % half)];
      const double sine = table[at(position * dim + half + lane % half)];
      const double other = x[at(lane < half ? i + half : i - half)];
      const double exact = x[at(i)] * cosine + (lane < half ? -other : other) * sine;
      ASSERT_NEAR(tensor.view().as<float>()[i], exact,
                  2.0 * kRounding * (std::fabs(x[at(i)]) + std::fabs(other)));
    }
  }
}

double exact_activation(Activation activation, double x) {
  if (activation == Activation::relu) return std::max(x, 0.0);
  if (activation == Activation::silu) return x / (1.0 + std::exp(-x));
  const double inner = std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x);
  return 0.5 * x * (1.0 + std::tanh(inner));
}

// Relative error 12 u, plus 2 u of the argument of the exponential, plus 1e-33 for cut-off tails.
TEST(GatedActivationTest, EqualsDefinitionInDouble) {
  for (const Activation activation : {Activation::silu, Activation::relu, Activation::gelu_tanh}) {
    for (const std::int64_t size : kSizes) {
      CpuOps cpu(2);
      std::vector<double> gate = normal_values(size, 1, 4.0);
      std::vector<double> up = normal_values(size, 2);
      gate[0] = size == 1 ? 0.0 : -200.0;
      gate[at(size - 1)] = size == 1 ? -1e-30 : 200.0;
      const Tensor up_tensor = store(cpu.memory, DType::f32, {1, size}, up);
      Tensor tensor = store(cpu.memory, DType::f32, {1, size}, gate);
      cpu.layers.gated_activation(tensor.view(), up_tensor.view(), activation);
      for (std::int64_t i = 0; i < size; ++i) {
        const double x = gate[at(i)];
        // tanh cancels in double for large negative x: 1e-14 of x is all the reference holds.
        const double exact = exact_activation(activation, x) * up[at(i)];
        const double argument = 4.0 * std::fabs(x) + std::fabs(x * x * x);
        const double tolerance = (12.0 + argument) * kRounding * std::fabs(exact) + 1e-33 +
                                 1e-14 * std::fabs(x * up[at(i)]);
        ASSERT_NEAR(tensor.view().as<float>()[i], exact, tolerance) << x;
      }
    }
  }
}

TEST(GatedActivationTest, KeepsNanAndLargeValues) {
  CpuOps cpu;
  for (const Activation activation : {Activation::silu, Activation::gelu_tanh, Activation::relu}) {
    std::vector<double> gate = {kNan, 3e38, kInfinity};
    std::vector<double> up = {1.0, 1.0, 1.0};
    Tensor tensor = store(cpu.memory, DType::f32, {1, 3}, gate);
    const Tensor ones = store(cpu.memory, DType::f32, {1, 3}, up);
    cpu.layers.gated_activation(tensor.view(), ones.view(), activation);
    const float* got = tensor.view().as<float>();
    EXPECT_TRUE(std::isnan(got[0]));
    EXPECT_EQ(got[1], 3e38F);
    EXPECT_EQ(got[2], std::numeric_limits<float>::infinity());
  }
}

TEST(AddTest, RoundsTheSumOnce) {
  for (const std::int64_t size : kSizes) {
    CpuOps cpu(2);
    std::vector<double> x = normal_values(size, 1);
    std::vector<double> delta = normal_values(size, 2, 100.0);
    Tensor tensor = store(cpu.memory, DType::f32, {size}, x);
    const Tensor delta_tensor = store(cpu.memory, DType::f32, {size}, delta);
    cpu.layers.add(tensor.view(), delta_tensor.view());
    for (std::int64_t i = 0; i < size; ++i) {
      ASSERT_EQ(tensor.view().as<float>()[i], static_cast<float>(x[at(i)] + delta[at(i)]));
    }
  }
}

// |error| <= (80 + 2 max|logit|) u + u |nll|: 64 additions in a lane, exponential, last rounding.
TEST(TokenNllTest, EqualsLogSumExpInDouble) {
  constexpr std::int64_t kTokens = 6;
  for (const std::int64_t words : {1, 31, 32, 33, 127, 129, 1023, 1025, 32000}) {
    for (const double scale : {1.0, 20.0}) {
      CpuOps cpu(2);
      std::vector<double> logits = normal_values(kTokens * words, 1, scale);
      const Tensor tensor = store(cpu.memory, DType::f32, {kTokens, words}, logits);
      std::vector<std::int32_t> targets = {0, static_cast<std::int32_t>(words - 1), -1, -100};
      targets.resize(kTokens, static_cast<std::int32_t>(words / 2));
      const Tensor target_tensor = store_integers(cpu.memory, DType::i32, targets);
      Tensor nll = cpu.memory.allocate(DType::f32, {kTokens});
      cpu.layers.token_nll(tensor.view(), target_tensor.view(), nll.view());
      for (std::int64_t t = 0; t < kTokens; ++t) {
        const double* row = logits.data() + t * words;
        const double largest = *std::max_element(row, row + words);
        double sum = 0.0;
        for (std::int64_t i = 0; i < words; ++i) sum += std::exp(row[i] - largest);
        const std::int32_t target = targets[at(t)];
        const double exact = target < 0 ? 0.0 : std::log(sum) + largest - row[target];
        const double bound = 80.0 + 2.0 * std::fabs(largest) + std::fabs(exact);
        ASSERT_NEAR(nll.view().as<float>()[t], exact, target < 0 ? 0.0 : bound * kRounding);
      }
    }
  }
}

TEST(LayerOpsThreadsTest, BitsDoNotDependOnThreads) {
  EXPECT_TRUE(same_bytes_on_any_threads([](CpuOps& cpu) {
    constexpr std::int64_t kTokens = 70;
    constexpr std::int64_t kWidth = 640;
    std::vector<double> values = normal_values(kTokens * kWidth, 1);
    std::vector<double> scales = normal_values(kWidth, 2);
    std::vector<double> angles = normal_values(35 * 64, 3);
    const Shape shape{kTokens, kWidth};
    const Tensor original = store(cpu.memory, DType::f32, shape, values);
    const Tensor weight = store(cpu.memory, DType::bf16, {kWidth}, scales);
    const Tensor table = store(cpu.memory, DType::f32, {35, 64}, angles);
    Tensor x = cpu.memory.allocate(DType::f32, shape);
    cpu.layers.rms_norm(original.view(), weight.view(), 1e-6F, x.view());
    cpu.layers.rotate(x.view(), table.view(), 64);
    cpu.layers.gated_activation(x.view(), original.view(), Activation::silu);
    cpu.layers.add(x.view(), original.view());
    const Tensor targets =
        store_integers(cpu.memory, DType::i32, std::vector<std::int32_t>(kTokens, 3));
    Tensor nll = cpu.memory.allocate(DType::f32, {kTokens});
    cpu.layers.token_nll(x.view(), targets.view(), nll.view());
    std::vector<std::byte> bytes = bytes_of(x.view());
    const std::vector<std::byte> losses = bytes_of(nll.view());
    bytes.insert(bytes.end(), losses.begin(), losses.end());
    return bytes;
  }));
}

TEST(LayerOpsShapeTest, RefusesWhatDoesNotFit) {
  CpuOps cpu;
  Tensor x = cpu.memory.allocate(DType::f32, {4, 12});
  Tensor other = cpu.memory.allocate(DType::f32, {4, 11});
  Tensor half = cpu.memory.allocate(DType::f16, {4, 12});
  Tensor integers = cpu.memory.allocate(DType::i32, {4});
  Tensor vector = cpu.memory.allocate(DType::f32, {12});
  Tensor losses = cpu.memory.allocate(DType::f32, {4});
  EXPECT_THROW(cpu.layers.convert(x.view(), other.view()), ShapeError);
  EXPECT_THROW(cpu.layers.convert(losses.view(), integers.view()), ShapeError);
  EXPECT_THROW(cpu.layers.count_nonfinite(x.view(), integers.view()), ShapeError);
  EXPECT_THROW(cpu.layers.embed(x.view(), integers.view(), other.view()), ShapeError);
  EXPECT_THROW(cpu.layers.embed(x.view(), losses.view(), x.view()), ShapeError);
  EXPECT_THROW(cpu.layers.embed(x.view(), integers.view(), half.view()), ShapeError);
  EXPECT_THROW(cpu.layers.rms_norm(x.view(), losses.view(), 0.0F, x.view()), ShapeError);
  EXPECT_THROW(cpu.layers.rms_norm(x.view(), vector.view(), 0.0F, half.view()), ShapeError);
  EXPECT_THROW(cpu.layers.rms_norm(half.view(), vector.view(), 0.0F, half.view()), ShapeError);
  EXPECT_THROW(cpu.layers.rotate(x.view(), x.view(), 6), ShapeError);
  EXPECT_THROW(cpu.layers.rotate(x.view(), half.view(), 12), ShapeError);
  EXPECT_THROW(cpu.layers.rotate(other.view(), other.view(), 11), ShapeError);
  EXPECT_THROW(cpu.layers.gated_activation(x.view(), other.view(), Activation::relu), ShapeError);
  EXPECT_THROW(cpu.layers.gated_activation(x.view(), half.view(), Activation::relu), ShapeError);
  EXPECT_THROW(cpu.layers.add(x.view(), other.view()), ShapeError);
  EXPECT_THROW(cpu.layers.add(half.view(), half.view()), ShapeError);
  EXPECT_THROW(cpu.layers.token_nll(x.view(), integers.view(), vector.view()), ShapeError);
  EXPECT_THROW(cpu.layers.token_nll(x.view(), losses.view(), losses.view()), ShapeError);
  EXPECT_THROW(cpu.layers.token_nll(half.view(), integers.view(), losses.view()), ShapeError);
}

}  // namespace
}  // namespace quern::test
