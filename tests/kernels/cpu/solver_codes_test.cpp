#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/core/error.h"
#include "tests/kernels/cpu/one_module.h"
#include "tests/kernels/cpu/solver_case.h"

namespace quern::test {
namespace {

class Codes : public testing::Test {
 protected:
  Tensor codes_of(std::int64_t rows, const std::vector<std::uint8_t>& values) {
    Tensor tensor =
        memory_.allocate(DType::u8, {rows, static_cast<std::int64_t>(values.size()) / rows});
    std::copy(values.begin(), values.end(), tensor.view().as<std::uint8_t>());
    return tensor;
  }

  std::vector<std::uint32_t> packed(const Tensor& codes, int bits) {
    const std::int64_t words = (codes.shape()[1] * bits + 31) / 32;
    Tensor out = memory_.allocate(DType::i32, {words, codes.shape()[0]});
    solver_->pack(codes.view(), bits, out.view());
    const auto* begin = out.view().as<std::uint32_t>();
    return {begin, begin + out.view().elems()};
  }

  CpuMemory memory_;
  std::unique_ptr<Solver> solver_ = make_cpu_solver(memory_, 2);
};

using Words = std::vector<std::uint32_t>;

TEST_F(Codes, GoldenWords) {
  EXPECT_EQ(packed(codes_of(1, {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3}), 2),
            Words{0xE4E4E4E4});
  EXPECT_EQ(packed(codes_of(1, {0, 1, 2, 3, 4, 5, 6, 7}), 4), Words{0x76543210});
  EXPECT_EQ(packed(codes_of(1, {1, 2, 3, 4, 255}), 8), (Words{0x04030201, 0xFF}));
  // Octal 76543210 = 0xFAC688 four times over, as one little-endian stream of 96 bits.
  std::vector<std::uint8_t> counting(32);
  for (std::size_t k = 0; k < 32; ++k) counting[k] = static_cast<std::uint8_t>(k % 8);
  EXPECT_EQ(packed(codes_of(1, counting), 3), (Words{0x88FAC688, 0xC688FAC6, 0xFAC688FA}));
  // The words of a symmetric zero point minus one in version 1 of the format.
  EXPECT_EQ(packed(codes_of(1, std::vector<std::uint8_t>(16, 1)), 2), Words{0x55555555});
  EXPECT_EQ(packed(codes_of(1, std::vector<std::uint8_t>(8, 7)), 4), Words{0x77777777});
  EXPECT_EQ(packed(codes_of(1, std::vector<std::uint8_t>(4, 127)), 8), Words{0x7F7F7F7F});
}

TEST_F(Codes, WordIndexFirstThenColumnsAndZeroPadding) {
  EXPECT_EQ(packed(codes_of(2, {15, 15, 15, 15, 15, 15, 15, 15, 15,  //
                                1, 0, 0, 0, 0, 0, 0, 0, 2}),
                   4),
            (Words{0xFFFFFFFF, 0x00000001, 0x0000000F, 0x00000002}));
}

TEST_F(Codes, EveryWidthAgainstSingleBits) {
  for (int bits = 2; bits <= 8; ++bits) {
    for (const std::int64_t columns : {1, 31, 33, 127, 129}) {
      const std::int64_t rows = 67;
      std::mt19937 engine(static_cast<unsigned>(bits));
      std::vector<std::uint8_t> values(static_cast<std::size_t>(rows * columns));
      for (auto& value : values) value = static_cast<std::uint8_t>(engine() % (1U << bits));
      const Tensor codes = codes_of(rows, values);
      const Words words = packed(codes, bits);
      Words expected(words.size());
      for (std::int64_t n = 0; n < rows; ++n) {
        for (std::int64_t bit = 0; bit < columns * bits; ++bit) {
          const auto code = values[static_cast<std::size_t>(n * columns + bit / bits)];
          const std::uint32_t value = (code >> (bit % bits)) & 1U;
          expected[static_cast<std::size_t>(bit / 32 * rows + n)] |= value << (bit % 32);
        }
      }
      ASSERT_EQ(words, expected) << bits << " bits, " << columns << " columns";

      Tensor in =
          memory_.allocate(DType::i32, {static_cast<std::int64_t>(words.size()) / rows, rows});
      std::copy(words.begin(), words.end(), in.view().as<std::uint32_t>());
      Tensor out = memory_.allocate(DType::u8, {rows, columns});
      solver_->unpack(in.view(), bits, out.view());
      ASSERT_TRUE(same_bytes(out, codes)) << bits << " bits, " << columns << " columns";
    }
  }
}

TEST_F(Codes, RefusesWrongCodesAndShapes) {
  const Tensor codes = codes_of(1, {1, 2, 8});
  EXPECT_THROW(packed(codes, 3), InternalError);
  Tensor words = memory_.allocate(DType::i32, {2, 1});
  EXPECT_THROW(solver_->pack(codes.view(), 4, words.view()), ShapeError);
  EXPECT_THROW(solver_->pack(codes.view(), 1, words.view()), ShapeError);
  EXPECT_THROW(solver_->pack(codes.view(), 9, words.view()), ShapeError);
}

TEST_F(Codes, RoundsToNearestByHand) {
  // 2 bits, largest magnitude 1.5: scale 2 * 1.5 / 3 = 1, zero 2, values -2 -1 0 1; halves to even.
  Matrix weight(1, 8);
  weight.values = {1.5, -1.5, 0.4, -0.6, 0.5, -0.5, 0.75, 0.0};
  const Tensor tensor = to_tensor(memory_, weight);
  const QuantizedTensor q =
      round_to_nearest(*solver_, tensor.view(), {2, -1, true, ScaleSearch::absmax}, std::nullopt);
  const std::vector<std::uint8_t> expected = {3, 0, 2, 1, 2, 2, 3, 2};
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), q.codes.view().as<std::uint8_t>()));
  EXPECT_EQ(q.scales.view().as<std::uint16_t>()[0], 0x3C00);
  EXPECT_EQ(q.zeros.view().as<std::uint8_t>()[0], 2);
  Tensor out = memory_.allocate(DType::f32, {1, 8});
  solver_->dequantize(q, out.view());
  const std::vector<float> values = {1, -2, 0, -1, 0, 0, 1, 0};
  EXPECT_TRUE(std::equal(values.begin(), values.end(), out.view().as<float>()));
}

TEST_F(Codes, AsymmetricRangeIncludesZero) {
  Matrix weight(2, 4);
  weight.values = {1.0, 2.0, 3.0, 1.5, -1.0, 2.0, 0.4, 0.6};
  const Tensor tensor = to_tensor(memory_, weight);
  const QuantizedTensor q =
      round_to_nearest(*solver_, tensor.view(), {2, -1, false, ScaleSearch::absmax}, std::nullopt);
  const std::vector<std::uint8_t> expected = {1, 2, 3, 2, 0, 3, 1, 2};
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), q.codes.view().as<std::uint8_t>()));
  EXPECT_EQ(q.zeros.view().as<std::uint8_t>()[0], 0);
  EXPECT_EQ(q.zeros.view().as<std::uint8_t>()[1], 1);
}

TEST_F(Codes, ZeroAndTinyGroupsHaveUsableScales) {
  Matrix weight(2, 4);
  weight.values = {0.0, 0.0, 0.0, 0.0, 1e-12, -1e-12, 0.0, 1e-30};
  for (const ScaleSearch search : {ScaleSearch::absmax, ScaleSearch::weighted}) {
    for (const bool symmetric : {true, false}) {
      const Tensor tensor = to_tensor(memory_, weight);
      const QuantizedTensor q =
          round_to_nearest(*solver_, tensor.view(), {4, -1, symmetric, search}, std::nullopt);
      EXPECT_GT(f16_to_float(q.scales.view().as<std::uint16_t>()[0]), 0.1F);
      EXPECT_EQ(q.scales.view().as<std::uint16_t>()[1], 1);
      Tensor out = memory_.allocate(DType::f32, {2, 4});
      solver_->dequantize(q, out.view());
      for (std::int64_t i = 0; i < 8; ++i) EXPECT_EQ(out.view().as<float>()[i], 0.0F);
    }
  }
}

TEST_F(Codes, SearchUsesTheColumnWeights) {
  const Matrix weight = random_matrix(100, 130, 5, 0.02);
  const Tensor tensor = to_tensor(memory_, weight);
  Tensor importance = memory_.allocate(DType::f64, {130});
  for (std::int64_t k = 0; k < 130; ++k) {
    importance.view().as<double>()[k] = k % 7 == 0 ? 50.0 : 0.5;
  }
  for (const int bits : {2, 3, 4, 8}) {
    for (const bool symmetric : {true, false}) {
      GridSpec grid{bits, 64, symmetric, ScaleSearch::absmax};
      const auto costs = [&] {
        const Matrix error = rounding_error(
            weight, round_to_nearest(*solver_, tensor.view(), grid, importance.view()));
        Matrix cost(3, weight.rows);
        for (std::int64_t n = 0; n < weight.rows; ++n) {
          for (std::int64_t k = 0; k < 130; ++k) {
            cost(k / 64, n) += importance.view().as<double>()[k] * error(n, k) * error(n, k);
          }
        }
        return cost;
      };
      const Matrix plain = costs();
      grid.scale_search = ScaleSearch::weighted;
      const Matrix searched = costs();
      double before = 0.0;
      double after = 0.0;
      for (std::size_t i = 0; i < plain.values.size(); ++i) {
        EXPECT_LE(searched.values[i], plain.values[i] * 1.0001);
        before += plain.values[i];
        after += searched.values[i];
      }
      EXPECT_LT(after, 0.98 * before) << bits;
    }
  }
}

TEST_F(Codes, EveryWeightTypeGivesTheSameCodes) {
  Matrix weight = random_matrix(5, 70, 6, 0.02);
  std::vector<Tensor> stored;
  for (const DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16}) {
    stored.push_back(memory_.allocate(dtype, {5, 70}));
  }
  for (std::size_t i = 0; i < weight.values.size(); ++i) {
    // Seven bits of mantissa and a normal float16 exponent: every type holds it.
    const float value = bf16_to_float(float_to_bf16(static_cast<float>(weight.values[i]))) +
                        (std::fabs(weight.values[i]) < 1e-4 ? 0.5F : 0.0F);
    stored[0].view().as<double>()[i] = value;
    stored[1].view().as<float>()[i] = value;
    stored[2].view().as<std::uint16_t>()[i] = float_to_f16(value);
    stored[3].view().as<std::uint16_t>()[i] = float_to_bf16(value);
  }
  const GridSpec grid{4, 32, true, ScaleSearch::absmax};
  const QuantizedTensor reference =
      round_to_nearest(*solver_, stored[0].view(), grid, std::nullopt);
  for (const Tensor& tensor : stored) {
    const QuantizedTensor q = round_to_nearest(*solver_, tensor.view(), grid, std::nullopt);
    EXPECT_TRUE(same_bytes(q.codes, reference.codes)) << dtype_name(tensor.dtype());
    EXPECT_TRUE(same_bytes(q.scales, reference.scales)) << dtype_name(tensor.dtype());
  }
}

TEST_F(Codes, QuadraticErrorAgainstLoops) {
  for (const std::int64_t columns : {1, 33, 129, 300}) {
    const std::int64_t rows = 70;
    const Matrix weight = random_matrix(rows, columns, 8, 0.02);
    GramCase gram = make_gram(memory_, correlated_hessian(columns, 9));
    gram.exponents.view().as<std::int32_t>()[columns - 1] += 3;
    Matrix h = gram.h;
    for (std::int64_t k = 0; k < columns; ++k) {
      h(k, columns - 1) /= 8.0;
      h(columns - 1, k) /= 8.0;
    }
    const Tensor tensor = to_tensor(memory_, weight);
    const QuantizedTensor q =
        round_to_nearest(*solver_, tensor.view(), {3, 32, true, ScaleSearch::absmax}, std::nullopt);
    Tensor dense = memory_.allocate(DType::f32, {rows, columns});
    solver_->dequantize(q, dense.view());
    Tensor result = memory_.allocate(DType::f64, {rows, 2});
    solver_->quadratic_error(tensor.view(), dense.view(), gram.view(), result.view());
    const Matrix error = rounding_error(weight, q);
    for (std::int64_t n = 0; n < rows; ++n) {
      const double* actual = result.view().as<double>() + 2 * n;
      EXPECT_NEAR(actual[0], row_error(error, h, n), 1e-12 * row_error(error, h, n)) << n;
      EXPECT_NEAR(actual[1], row_error(weight, h, n), 1e-12 * row_error(weight, h, n)) << n;
    }

    Tensor again = memory_.allocate(DType::f64, {rows, 2});
    const auto other = make_cpu_solver(memory_, 3);
    for (const auto& [begin, count] : {std::pair(0, 64), std::pair(64, 6)}) {
      other->quadratic_error(tensor.view().rows(begin, count), dense.view().rows(begin, count),
                             gram.view(), again.view().rows(begin, count));
    }
    EXPECT_TRUE(same_bytes(result, again));
  }
}

TEST_F(Codes, CountsGroups) {
  EXPECT_EQ(group_count(4096, -1), 1);
  EXPECT_EQ(group_count(4096, 128), 32);
  EXPECT_EQ(group_count(330, 128), 3);
  EXPECT_EQ(group_count(100, 1024), 1);
}

}  // namespace
}  // namespace quern::test
