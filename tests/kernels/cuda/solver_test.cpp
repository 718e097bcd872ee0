#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/core/error.h"
#include "tests/kernels/cpu/factor_batch_case.h"
#include "tests/kernels/cpu/one_module.h"
#include "tests/kernels/cpu/row_range_case.h"
#include "tests/kernels/cuda/module_case.h"

namespace quern::test {
namespace {

using CudaSolverTest = CudaModuleCase;

constexpr Damping kDamping{};
constexpr ActOrder kOrders[] = {ActOrder::none, ActOrder::group_aware, ActOrder::full};

void expect_near(const std::vector<double>& actual, const std::vector<double>& expected,
                 double relative) {
  ASSERT_EQ(actual.size(), expected.size());
  double largest = 0.0;
  for (const double value : expected) largest = std::max(largest, std::fabs(value));
  for (std::size_t i = 0; i < actual.size(); ++i) {
    ASSERT_NEAR(actual[i], expected[i], relative * largest) << i;
  }
}

void expect_same_factor(const HessianFactor& actual, const HessianFactor& expected) {
  EXPECT_EQ(elements<std::int32_t>(actual.order), elements<std::int32_t>(expected.order));
  EXPECT_EQ(elements<double>(actual.diagonal), elements<double>(expected.diagonal));
  EXPECT_EQ(actual.damping_fraction, expected.damping_fraction);
  EXPECT_EQ(actual.dead_columns, expected.dead_columns);
  // Backward stable: n eps times the condition of the damped H, about 1e4 here.
  const double n = static_cast<double>(expected.order.shape().elems());
  expect_near(elements<double>(actual.feedback), elements<double>(expected.feedback),
              n * 0x1p-52 * 1e4);
  expect_near(elements<double>(actual.weight), elements<double>(expected.weight),
              n * 0x1p-52 * 1e4);
}

TEST_P(CudaSolverTest, FactorisesLikeTheCpu) {
  for (const std::int64_t columns : {1, 31, 32, 33, 127, 129, 300}) {
    TwinGram h = gram(columns, 1);
    for (const ActOrder order : kOrders) {
      const HessianFactor expected =
          cpu().solver().factorise({"m", h.cpu.view(), order, 32, kDamping});
      const HessianFactor actual =
          cuda().solver().factorise({"m", h.cuda.view(), order, 32, kDamping});
      expect_same_factor(moved(cuda(), cpu(), actual), expected);
    }
  }
}

/// So many columns that several panels of the factor are worked on at a time, the last one ragged.
TEST_P(CudaSolverTest, FactorisesALargeHessianLikeTheCpu) {
  constexpr std::int64_t kColumns = 3300;
  const Matrix mixing = random_matrix(6, kColumns, 21, 0.5);
  Matrix h(kColumns, kColumns);
  for (std::int64_t i = 0; i < kColumns; ++i) {
    for (std::int64_t j = 0; j < kColumns; ++j) {
      for (std::int64_t d = 0; d < mixing.rows; ++d) h(i, j) += mixing(d, i) * mixing(d, j);
    }
    h(i, i) += 0.05 + static_cast<double>(i % 11);
  }
  TwinGram twin = gram(h);
  const HessianFactor expected =
      cpu().solver().factorise({"m", twin.cpu.view(), ActOrder::none, 128, kDamping});
  const HessianFactor actual =
      cuda().solver().factorise({"m", twin.cuda.view(), ActOrder::none, 128, kDamping});
  const HessianFactor on_cpu = moved(cuda(), cpu(), actual);
  expect_same_factor(on_cpu, expected);
  const HessianFactor again =
      cuda().solver().factorise({"m", twin.cuda.view(), ActOrder::none, 128, kDamping});
  EXPECT_TRUE(same_bytes(on_cpu.feedback, to_cpu(again.feedback)));
}

/// More than fit into one launch, and large ones; one of them with damping that has to grow.
TEST_P(CudaSolverTest, FactorsMadeAtOnceAreAsAlone) {
  for (const auto& [columns, count] : {std::pair{129, 19}, {1300, 3}}) {
    std::vector<TwinGram> hessians;
    std::vector<HessianTask> tasks;
    for (int i = 0; i < count; ++i) {
      Matrix h = correlated_hessian(columns, static_cast<unsigned>(i));
      if (i == 1) make_inputs_equal(h, 6, 5);
      hessians.push_back(gram(h));
    }
    for (int i = 0; i < count; ++i) {
      tasks.push_back({"m",
                       hessians[static_cast<std::size_t>(i)].cuda.view(),
                       kOrders[i % 3],
                       32,
                       {.fraction = i == 1 ? 0.0 : 0.01}});
    }
    expect_factors_as_alone(cuda().memory(), cuda().solver(), tasks);
  }
}

TEST_P(CudaSolverTest, CutsDeadColumnsAndGrowsDamping) {
  Matrix h = correlated_hessian(40, 2);
  for (std::int64_t k = 0; k < 40; ++k) h(3, k) = h(k, 3) = h(17, k) = h(k, 17) = 0.0;
  make_inputs_equal(h, 6, 5);
  TwinGram twin = gram(h);
  const Damping none{0.0, 10.0};
  const HessianFactor expected =
      cpu().solver().factorise({"m", twin.cpu.view(), ActOrder::none, 32, none});
  const HessianFactor actual =
      cuda().solver().factorise({"m", twin.cuda.view(), ActOrder::none, 32, none});
  EXPECT_EQ(actual.dead_columns, 2);
  EXPECT_GT(expected.damping_fraction, 0.0);
  EXPECT_EQ(actual.damping_fraction, expected.damping_fraction);
}

TEST_P(CudaSolverTest, RefusesWhatIsNoHessian) {
  TwinGram zero = gram(Matrix(8, 8));
  EXPECT_THROW(cuda().solver().factorise({"m", zero.cuda.view(), ActOrder::none, -1, kDamping}),
               InputError);
  Matrix indefinite(8, 8);
  for (std::int64_t i = 0; i < 8; ++i) {
    for (std::int64_t j = 0; j < 8; ++j) indefinite(i, j) = i == j ? 1.0 : 50.0;
  }
  TwinGram twin = gram(indefinite);
  EXPECT_THROW(cuda().solver().factorise({"m", twin.cuda.view(), ActOrder::none, -1, kDamping}),
               InputError);
  cuda().memory().copy(
      to_cuda(store_integers<std::int64_t>(cpu().memory(), DType::i64, {1})).view(),
      twin.cuda.overflow.view());
  EXPECT_THROW(cuda().solver().factorise({"m", twin.cuda.view(), ActOrder::none, -1, kDamping}),
               InternalError);
}

struct Module {
  std::int64_t rows, columns;
  DType dtype;
};

/// Grids and orders that take every road: groups inside a block, larger than one, ragged ones.
std::vector<GridSpec> grids() {
  std::vector<GridSpec> all;
  for (const std::int64_t group_size : {-1, 1, 32, 48, 128, 200}) {
    for (const bool symmetric : {true, false}) {
      for (const ScaleSearch search : {ScaleSearch::absmax, ScaleSearch::weighted}) {
        const int bits = static_cast<int>(all.size()) % 7 + 2;
        all.push_back({bits, group_size, symmetric, search});
      }
    }
  }
  return all;
}

void expect_same_codes(const QuantizedTensor& actual, const QuantizedTensor& expected) {
  // Ties are rare in float64: no row of a small module may differ, few of a large one.
  const std::int64_t allowed = expected.codes.shape()[0] / 200;
  EXPECT_LE(differing_rows(actual.codes, expected.codes), allowed);
  EXPECT_TRUE(same_bytes(actual.group_of, expected.group_of));
  if (allowed > 0) return;
  EXPECT_TRUE(same_bytes(actual.scales, expected.scales));
  EXPECT_TRUE(same_bytes(actual.zeros, expected.zeros));
}

class CudaRowsTest : public CudaModuleCase {
 protected:
  void solve_like_the_cpu(ActOrder order) {
    for (const auto& [rows, columns, dtype] :
         {Module{1, 1, DType::f32}, Module{33, 129, DType::bf16}, Module{9, 300, DType::f16},
          Module{31, 127, DType::f64}, Module{65, 512, DType::bf16}}) {
      const Tensor weight = cpu_weight(dtype, rows, columns, 3);
      const Tensor cuda_weight = to_cuda(weight);
      TwinGram h = gram(columns, 4);
      for (const GridSpec& grid : grids()) {
        SCOPED_TRACE(testing::Message()
                     << rows << " x " << columns << ", " << grid.bits << " bits, group "
                     << grid.group_size << ", symmetric " << grid.symmetric);
        const HessianFactor factor =
            cpu().solver().factorise({"m", h.cpu.view(), order, grid.group_size, kDamping});
        const QuantizedTensor expected = gptq(cpu().solver(), weight.view(), factor, grid);
        const QuantizedTensor actual =
            gptq(cuda().solver(), cuda_weight.view(), moved(cpu(), cuda(), factor), grid);
        expect_same_codes(moved(cuda(), cpu(), actual), expected);
      }
    }
  }

  /// Bit for bit.
  void solve_rows_apart(const Module& module) {
    const Tensor weight = to_cuda(cpu_weight(module.dtype, module.rows, module.columns, 15));
    TwinGram h = gram(module.columns, 16);
    for (const std::int64_t group_size : {-1, 128}) {
      const HessianFactor factor =
          cuda().solver().factorise({"m", h.cuda.view(), ActOrder::none, group_size, kDamping});
      expect_rows_to_be_solved_apart(module.rows, [&](const RowRange& range) {
        return moved(cuda(), cpu(),
                     gptq(cuda().solver(), weight.view(), factor, {4, group_size}, range));
      });
    }
  }
};

// Several tests of a kind: under compute-sanitizer all of them take too long for one process.
TEST_P(CudaRowsTest, AreSolvedLikeOnTheCpuAsStored) {
  solve_like_the_cpu(ActOrder::none);
}

TEST_P(CudaRowsTest, AreSolvedLikeOnTheCpuByGroups) {
  solve_like_the_cpu(ActOrder::group_aware);
}

TEST_P(CudaRowsTest, AreSolvedLikeOnTheCpuInFullOrder) {
  solve_like_the_cpu(ActOrder::full);
}

TEST_P(CudaRowsTest, OfASmallModuleAreSolvedApart) {
  solve_rows_apart({200, 330, DType::f64});
}

// Here a product of all rows might be formed in another way than one of few.
TEST_P(CudaRowsTest, OfALargeModuleAreSolvedApart) {
  solve_rows_apart({2048, 640, DType::bf16});
}

TEST_P(CudaRowsTest, OfAHighModuleAreSolvedApart) {
  solve_rows_apart({8200, 256, DType::f16});
}

TEST_P(CudaSolverTest, SolvesALargeModuleAsWell) {
  constexpr std::int64_t kRows = 400;
  constexpr std::int64_t kColumns = 1024;
  const Tensor weight = cpu_weight(DType::bf16, kRows, kColumns, 5);
  const Tensor cuda_weight = to_cuda(weight);
  TwinGram h = gram(kColumns, 6);
  const GridSpec grid{4, 128, true, ScaleSearch::weighted};
  const HessianFactor cpu_factor =
      cpu().solver().factorise({"m", h.cpu.view(), ActOrder::none, 128, kDamping});
  const HessianFactor factor =
      cuda().solver().factorise({"m", h.cuda.view(), ActOrder::none, 128, kDamping});
  const QuantizedTensor actual = gptq(cuda().solver(), cuda_weight.view(), factor, grid);
  const QuantizedTensor again = gptq(cuda().solver(), cuda_weight.view(), factor, grid);
  const QuantizedTensor on_cpu = moved(cuda(), cpu(), actual);
  EXPECT_TRUE(same_bytes(on_cpu.codes, to_cpu(again.codes)));
  expect_same_codes(on_cpu, gptq(cpu().solver(), weight.view(), cpu_factor, grid));
}

/// Bit for bit: side by side in panels, whose products are batched.
TEST_P(CudaSolverTest, SolvesModulesApart) {
  constexpr std::int64_t kColumns = 700;
  const Tensor weights[] = {to_cuda(cpu_weight(DType::bf16, 520, kColumns, 17)),
                            to_cuda(cpu_weight(DType::f64, 33, kColumns, 18)),
                            to_cuda(cpu_weight(DType::f16, 1024, kColumns, 19))};
  const ConstTensorView views[] = {weights[0].view(), weights[1].view(), weights[2].view()};
  TwinGram h = gram(kColumns, 20);
  for (const ActOrder order : {ActOrder::none, ActOrder::full}) {
    const HessianFactor factor =
        cuda().solver().factorise({"m", h.cuda.view(), order, 128, kDamping});
    expect_modules_to_be_solved_apart(views, [&](std::span<const GridModule> modules) {
      std::vector<QuantizedTensor> results;
      for (const QuantizedTensor& tensor : cuda().solver().gptq(modules, factor)) {
        results.push_back(moved(cuda(), cpu(), tensor));
      }
      return results;
    });
  }
}

TEST_P(CudaSolverTest, RoundsToNearestLikeTheCpu) {
  for (const auto& [rows, columns, dtype] :
       {Module{1, 1, DType::f32}, Module{33, 300, DType::bf16}, Module{9, 129, DType::f64}}) {
    const Tensor weight = cpu_weight(dtype, rows, columns, 7);
    std::vector<double> energy(static_cast<std::size_t>(columns));
    for (std::size_t k = 0; k < energy.size(); ++k) energy[k] = 1.0 + static_cast<double>(k % 7);
    const Tensor importance = store(cpu().memory(), DType::f64, {columns}, energy);
    const Tensor cuda_importance = to_cuda(importance);
    const Tensor cuda_weight = to_cuda(weight);
    for (const GridSpec& grid : grids()) {
      for (const bool weighted : {false, true}) {
        const auto at = [weighted](const Tensor& tensor) {
          return weighted ? std::optional(tensor.view()) : std::nullopt;
        };
        const QuantizedTensor expected =
            round_to_nearest(cpu().solver(), weight.view(), grid, at(importance));
        const QuantizedTensor actual =
            moved(cuda(), cpu(),
                  round_to_nearest(cuda().solver(), cuda_weight.view(), grid, at(cuda_importance)));
        EXPECT_TRUE(same_bytes(actual.codes, expected.codes));
        EXPECT_TRUE(same_bytes(actual.scales, expected.scales));
        EXPECT_TRUE(same_bytes(actual.zeros, expected.zeros));
        EXPECT_TRUE(same_bytes(actual.group_of, expected.group_of));
      }
    }
  }
}

TEST_P(CudaSolverTest, RefusesWeightsBeyondFloat16Scales) {
  for (const double wrong :
       {1e7, std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    std::vector<double> values(100 * 40, 0.5);
    values[70 * 40 + 11] = wrong;
    const Tensor weight = to_cuda(store(cpu().memory(), DType::f32, {100, 40}, values));
    EXPECT_THROW(round_to_nearest(cuda().solver(), weight.view(), {}, std::nullopt), InputError);
  }
}

TEST_P(CudaSolverTest, PacksUnpacksAndDequantizesToTheSameBytes) {
  for (const std::int64_t columns : {1, 31, 32, 33, 127, 129}) {
    for (int bits = 2; bits <= 8; ++bits) {
      const Tensor weight = cpu_weight(DType::bf16, 33, columns, 8);
      const QuantizedTensor quantized =
          round_to_nearest(cpu().solver(), weight.view(), {bits, 32}, std::nullopt);
      const QuantizedTensor on_cuda = moved(cpu(), cuda(), quantized);
      const Shape words{(columns * bits + 31) / 32, 33};
      Tensor packed = cpu().memory().allocate(DType::i32, words);
      Tensor cuda_packed = cuda().memory().allocate(DType::i32, words);
      cpu().solver().pack(quantized.codes.view(), bits, packed.view());
      cuda().solver().pack(on_cuda.codes.view(), bits, cuda_packed.view());
      EXPECT_TRUE(same_bytes(to_cpu(cuda_packed), packed));
      Tensor codes = cuda().memory().allocate(DType::u8, {33, columns});
      cuda().solver().unpack(cuda_packed.view(), bits, codes.view());
      EXPECT_TRUE(same_bytes(to_cpu(codes), quantized.codes));
      Twin out = poisoned(DType::f32, {33, columns});
      cpu().solver().dequantize(quantized, out.cpu.view());
      cuda().solver().dequantize(on_cuda, out.cuda.view());
      expect_close(out, {0.0, 0.0});
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Solver, CudaSolverTest, testing::Values(DType::bf16), type_name);
INSTANTIATE_TEST_SUITE_P(Solver, CudaRowsTest, testing::Values(DType::bf16), type_name);

}  // namespace
}  // namespace quern::test
