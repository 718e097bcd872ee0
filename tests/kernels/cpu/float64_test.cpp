// Activations of F64. What is left of 53 bits after some hundred roundings is far below what one
// float on the way would leave: 1e-8.

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "kernels/core/error.h"
#include "kernels/cpu/row_kernels.h"
#include "tests/kernels/cpu/attention_case.h"
#include "tests/kernels/cpu/finite_difference.h"
#include "tests/kernels/cpu/fisher_case.h"

namespace quern::test {
namespace {

constexpr double kForward = 1e-13;   // of the largest entry
constexpr double kGradient = 1e-10;  // likewise; finite differences in double hold no more
constexpr std::int64_t kSizes[] = {1, 31, 32, 33, 127, 129, 700};
constexpr DType kWeightTypes[] = {DType::f64, DType::f32, DType::bf16};
constexpr Activation kActivations[] = {Activation::silu, Activation::relu, Activation::gelu_tanh};

class Float64Test : public testing::Test {
 protected:
  Tensor stored(const Shape& shape, Values& values, DType dtype = DType::f64) {
    return store(cpu.memory, dtype, shape, values);
  }
  Tensor poisoned(const Shape& shape) {
    Values values(at(shape.elems()), std::nan(""));
    return stored(shape, values);
  }
  void expect_values(const Tensor& tensor, const Values& exact) {
    ASSERT_EQ(tensor.shape().elems(), static_cast<std::int64_t>(exact.size()));
    const double largest =
        std::fabs(*std::ranges::max_element(exact, {}, [](double v) { return std::fabs(v); }));
    for (std::size_t i = 0; i < exact.size(); ++i) {
      ASSERT_NEAR(tensor.view().as<double>()[i], exact[i], kForward * largest) << i;
    }
  }

  CpuOps cpu{2};
};

TEST_F(Float64Test, ExponentialsAreWithinTwoUnits) {
  Values x;
  for (int i = 0; i <= 141600; ++i) x.push_back(-708.0 + 0.01 * i);
  Values out(x.size());
  exp_row(x.data(), static_cast<std::int64_t>(x.size()), 0.0, out.data());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const long double exact = std::exp(static_cast<long double>(x[i]));
    ASSERT_LE(std::fabs(out[i] - exact), 0x1p-51L * exact) << x[i];
  }
}

TEST_F(Float64Test, LinearMultipliesAndGoesBack) {
  for (const DType dtype : kWeightTypes) {
    for (const std::int64_t inputs : kSizes) {
      constexpr std::int64_t kTokens = 33;
      constexpr std::int64_t kOutputs = 270;
      Values x = normal_values(kTokens * inputs, 1);
      Values weight = normal_values(kOutputs * inputs, 2);
      Values bias = normal_values(kOutputs, 3);
      Values dy = normal_values(kTokens * kOutputs, 4);
      const Tensor xs = stored({kTokens, inputs}, x);
      const Tensor weights = stored({kOutputs, inputs}, weight, dtype);
      const Tensor biases = stored({kOutputs}, bias, dtype);
      const Tensor dys = stored({kTokens, kOutputs}, dy);
      Tensor out = poisoned({kTokens, kOutputs});
      cpu.layers.linear(xs.view(), weights.view(), biases.view(), out.view());
      Values exact = exact_linear(x, weight, inputs);
      for (std::size_t i = 0; i < exact.size(); ++i) exact[i] += bias[i % bias.size()];
      expect_values(out, exact);
      Tensor dx = poisoned({kTokens, inputs});
      cpu.gradients.linear(dys.view(), weights.view(), dx.view());
      expect_gradient(
          [&](const Values& moved) {
            return weighted_sum(dy, exact_linear(moved, weight, inputs));
          },
          x, dx.view(), kGradient);
    }
  }
}

TEST_F(Float64Test, RmsNormAndItsGradient) {
  for (const std::int64_t width : kSizes) {
    Values x = normal_values(3 * width, 1);
    Values weight = normal_values(width, 2);
    Values dy = normal_values(3 * width, 3);
    const Tensor xs = stored({3, width}, x);
    const Tensor weights = stored({width}, weight, DType::bf16);
    constexpr float kEpsilon = 0.25F;
    Tensor out = poisoned({3, width});
    cpu.layers.rms_norm(xs.view(), weights.view(), kEpsilon, out.view());
    expect_values(out, exact_rms_norm(x, weight, kEpsilon));
    Tensor dx = stored({3, width}, dy);
    cpu.gradients.rms_norm(xs.view(), weights.view(), kEpsilon, dx.view(), dx.view());
    expect_gradient(
        [&](const Values& moved) {
          return weighted_sum(dy, exact_rms_norm(moved, weight, kEpsilon));
        },
        x, dx.view(), 10 * kGradient);
  }
}

TEST_F(Float64Test, RotateTurnsAndTurnsBack) {
  for (const std::int64_t half : {1, 16, 31, 64}) {
    const Shape shape{10, 3 * 2 * half};
    Values angles = normal_values(5 * 2 * half, 1);
    Values x = normal_values(shape.elems(), 2);
    const Tensor table = stored({5, 2 * half}, angles, DType::f32);
    Tensor turned = stored(shape, x);
    cpu.layers.rotate(turned.view(), table.view(), 2 * half);
    expect_values(turned, exact_rotate(x, angles, 2 * half, shape[1]));
    Values sines = angles;
    for (std::size_t i = 0; i < sines.size(); ++i) {
      if (i % at(2 * half) >= at(half)) sines[i] = -sines[i];
    }
    Tensor back = stored(shape, x);
    cpu.gradients.rotate(back.view(), table.view(), 2 * half);
    expect_values(back, exact_rotate(x, sines, 2 * half, shape[1]));
  }
}

TEST_F(Float64Test, GatedActivationAndItsGradient) {
  for (const Activation activation : kActivations) {
    for (const std::int64_t size : kSizes) {
      Values gate = normal_values(size, 1, 2.0);
      Values up = normal_values(size, 2);
      Values dh = normal_values(size, 3);
      for (double& value : gate) value += std::copysign(0.05, value);  // clear of relu's kink
      const Tensor ups = stored({1, size}, up);
      Tensor product = stored({1, size}, gate);
      cpu.layers.gated_activation(product.view(), ups.view(), activation);
      expect_values(product, exact_gated_activation(gate, up, activation));
      Tensor dgate = stored({1, size}, gate);
      Tensor dup = stored({1, size}, up);
      const Tensor dhs = stored({1, size}, dh);
      cpu.gradients.gated_activation(dgate.view(), dup.view(), dhs.view(), activation);
      expect_gradient(
          [&](const Values& moved) {
            return weighted_sum(dh, exact_gated_activation(moved, up, activation));
          },
          gate, dgate.view(), kGradient);
      expect_gradient(
          [&](const Values& moved) {
            return weighted_sum(dh, exact_gated_activation(gate, moved, activation));
          },
          up, dup.view(), kGradient);
    }
  }
}

TEST_F(Float64Test, EmbedsAndAdds) {
  Values table = normal_values(50 * 33, 1);
  const Tensor rows = stored({50, 33}, table);
  const std::vector<std::int32_t> ids = {49, 0, 7};
  const Tensor id_tensor = store_integers(cpu.memory, DType::i32, ids);
  Tensor out = poisoned({3, 33});
  cpu.layers.embed(rows.view(), id_tensor.view(), out.view());
  Values delta = normal_values(3 * 33, 2);
  const Tensor deltas = stored({3, 33}, delta);
  cpu.layers.add(out.view(), deltas.view());
  for (std::size_t i = 0; i < delta.size(); ++i) {
    const double row = table[static_cast<std::size_t>(ids[i / 33]) * 33 + i % 33];
    ASSERT_EQ(out.view().as<double>()[i], row + delta[i]);
  }
}

// The losses themselves are floats.
TEST_F(Float64Test, TokenNllAndItsGradient) {
  for (const std::int64_t words : {2, 31, 32, 33, 127, 129, 1025}) {
    Values logits = normal_values(4 * words, 1, 3.0);
    const std::vector<std::int32_t> targets = {0, static_cast<std::int32_t>(words - 1), -1, 1};
    const Tensor target_tensor = store_integers(cpu.memory, DType::i32, targets);
    Tensor tensor = stored({4, words}, logits);
    Tensor nll = cpu.memory.allocate(DType::f32, {4});
    cpu.layers.token_nll(tensor.view(), target_tensor.view(), nll.view());
    const Values exact = exact_token_nll(logits, targets, words);
    for (std::size_t t = 0; t < 4; ++t) {
      ASSERT_NEAR(nll.view().as<float>()[t], exact[t], kRounding * std::fabs(exact[t]) * 1.0001);
    }
    cpu.gradients.token_nll(tensor.view(), target_tensor.view(), 0.125F);
    expect_gradient(
        [&](const Values& moved) {
          const Values losses = exact_token_nll(moved, targets, words);
          return 0.125 * std::accumulate(losses.begin(), losses.end(), 0.0);
        },
        logits, tensor.view(), kGradient);
  }
}

TEST_F(Float64Test, AttentionAndItsGradient) {
  for (const AttentionShape& shape :
       {attention_shape(2, 1, 64, 31, 0), attention_shape(4, 2, 32, 33, 0),
        attention_shape(2, 2, 31, 127, 0), attention_shape(2, 1, 16, 200, 33)}) {
    AttentionInputs in({2, shape}, 1.0);
    Values dy = normal_values(in.q_shape.elems(), 4);
    const Tensor q = stored(in.q_shape, in.q);
    const Tensor k = stored(in.kv_shape, in.k);
    const Tensor v = stored(in.kv_shape, in.v);
    const Tensor dys = stored(in.q_shape, dy);
    Tensor out = poisoned(in.q_shape);
    cpu.layers.attention(q.view(), k.view(), v.view(), shape, out.view());
    expect_values(out, exact_attention(in.q, in.k, in.v, shape));
    Tensor dq = poisoned(in.q_shape);
    Tensor dk = poisoned(in.kv_shape);
    Tensor dv = poisoned(in.kv_shape);
    cpu.gradients.attention({q.view(), k.view(), v.view(), std::as_const(out).view()}, dys.view(),
                            shape, {dq.view(), dk.view(), dv.view()});
    const auto loss = [&](const Values& qs, const Values& ks, const Values& vs) {
      return weighted_sum(dy, exact_attention(qs, ks, vs, shape));
    };
    expect_gradient([&](const Values& moved) { return loss(moved, in.k, in.v); }, in.q, dq.view(),
                    kGradient);
    expect_gradient([&](const Values& moved) { return loss(in.q, moved, in.v); }, in.k, dk.view(),
                    kGradient);
    expect_gradient([&](const Values& moved) { return loss(in.q, in.k, moved); }, in.v, dv.view(),
                    kGradient);
  }
}

TEST_F(Float64Test, GramSumsProductsOfDoubles) {
  constexpr std::int64_t kTokens = 700;
  for (const std::int64_t channels : {1, 33, 129, 200}) {
    Values x = normal_values(kTokens * channels, 1);
    const Tensor xs = stored({kTokens, channels}, x);
    Tensor sums = cpu.memory.allocate(DType::i64, {channels, channels});
    Tensor exponents = cpu.memory.allocate(DType::i32, {channels});
    Tensor overflow = cpu.memory.allocate(DType::i64, {1});
    cpu.memory.clear(sums.view());
    cpu.memory.clear(overflow.view());
    cpu.statistics.choose_gram_exponents(xs.view(), kTokens, 2, exponents.view());
    cpu.statistics.accumulate_gram(xs.view(), kTokens,
                                   {sums.view(), exponents.view(), overflow.view()});
    EXPECT_EQ(*overflow.view().as<std::int64_t>(), 0);
    for (std::int64_t i = 0; i < channels; ++i) {
      for (std::int64_t j = i; j < channels; ++j) {
        long double exact = 0.0L;
        for (std::int64_t t = 0; t < kTokens; ++t) {
          exact += static_cast<long double>(x[at(t * channels + i)]) *
                   static_cast<long double>(x[at(t * channels + j)]);
        }
        const auto* powers = exponents.view().as<std::int32_t>();
        const double got =
            std::ldexp(static_cast<double>(sums.view().as<std::int64_t>()[i * channels + j]),
                       -powers[i] - powers[j]);
        ASSERT_NEAR(got, static_cast<double>(exact), kForward * kTokens) << i << ", " << j;
      }
    }
  }
}

TEST_F(Float64Test, FisherSumsSquaresOfDoubles) {
  const FisherSize size{3, 33, 129, 31};
  const Batch batch = normal_batch(cpu, size, 4, DType::f64);
  Fisher fisher(cpu, size.outputs, size.inputs);
  fisher.choose(batch, size.sequences);
  fisher.add(batch, size.sequences);
  EXPECT_EQ(fisher.refused(), 0);
  for (std::int64_t n = 0; n < size.outputs; ++n) {
    for (std::int64_t k = 0; k < size.inputs; ++k) {
      // Sums of 33 products of 1e-4, squared.
      ASSERT_NEAR(static_cast<double>(fisher.value(n, k) * 1e8L),
                  static_cast<double>(batch.fisher(n, k) * 1e8L), 1e-11)
          << n << ", " << k;
    }
  }
}

TEST_F(Float64Test, ScalesByTheGradient) {
  Values x = normal_values(5 * 33, 1);
  Values dy = normal_values(5 * 129, 2, 1e-30);
  const Tensor xs = stored({5, 33}, x);
  const Tensor dys = stored({5, 129}, dy);
  Tensor out = poisoned({5, 33});
  cpu.statistics.scale_by_gradient(xs.view(), dys.view(), out.view());
  Values exact = x;
  for (std::int64_t t = 0; t < 5; ++t) {
    double squares = 0.0;
    for (std::int64_t n = 0; n < 129; ++n) squares += dy[at(t * 129 + n)] * dy[at(t * 129 + n)];
    for (std::int64_t k = 0; k < 33; ++k) exact[at(t * 33 + k)] *= std::sqrt(squares / 129.0);
  }
  expect_values(out, exact);
}

TEST_F(Float64Test, BitsDoNotDependOnThreads) {
  EXPECT_TRUE(same_bytes_on_any_threads([](CpuOps& ops) {
    AttentionInputs in({2, attention_shape(4, 2, 32, 300, 0)}, 1.0);
    const Tensor q = store(ops.memory, DType::f64, in.q_shape, in.q);
    const Tensor k = store(ops.memory, DType::f64, in.kv_shape, in.k);
    Tensor mixed = ops.memory.allocate(DType::f64, in.q_shape);
    Tensor out = ops.memory.allocate(DType::f64, {in.tokens, in.tokens});
    ops.layers.attention(q.view(), k.view(), k.view(), in.shape, mixed.view());
    ops.layers.linear(std::as_const(mixed).view(), q.view(), std::nullopt, out.view());
    return bytes_of(out.view());
  }));
}

TEST_F(Float64Test, OperandsHaveOneType) {
  const Tensor narrow = cpu.memory.allocate(DType::f32, {4, 12});
  Tensor wide = cpu.memory.allocate(DType::f64, {4, 12});
  EXPECT_THROW(cpu.layers.add(wide.view(), narrow.view()), ShapeError);
  EXPECT_THROW(cpu.layers.gated_activation(wide.view(), narrow.view(), Activation::silu),
               ShapeError);
  EXPECT_THROW(
      cpu.layers.linear(narrow.view(), narrow.view(), std::nullopt, wide.view().rows(0, 4)),
      ShapeError);
}

}  // namespace
}  // namespace quern::test
