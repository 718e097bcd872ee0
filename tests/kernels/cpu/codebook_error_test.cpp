#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "kernels/core/error.h"
#include "tests/kernels/cpu/codebook_case.h"

namespace quern::test {
namespace {

class CodebookError : public testing::Test {
 protected:
  Tensor fisher_of(std::int64_t rows, std::vector<double> values) {
    const auto columns = static_cast<std::int64_t>(values.size()) / rows;
    return store(memory_, DType::f32, {rows, columns}, values);
  }

  std::vector<float> row(const Tensor& tensor, std::int64_t n) {
    const std::int64_t columns = tensor.shape()[1];
    const float* begin = tensor.view().as<float>() + n * columns;
    return {begin, begin + columns};
  }

  CpuMemory memory_;
  std::unique_ptr<CodebookSolver> solver_ = make_cpu_codebook_solver(memory_, 1);
};

using Row = std::vector<float>;

TEST_F(CodebookError, EmptyRowsGetTheColumnEnergyAtTheLeastRowSum) {
  Tensor fisher = fisher_of(3, {8, 8, 0, 0, 1, 3});
  std::vector<double> energy{3.0, 1.0};
  const Tensor column_energy = store(memory_, DType::f64, {2}, energy);
  const auto filled = solver_->fill_uninformed_rows(fisher.view(), column_energy.view());
  EXPECT_EQ(filled.from_energy, 1);
  EXPECT_EQ(filled.from_ones, 0);
  EXPECT_EQ(row(fisher, 0), (Row{8, 8}));
  EXPECT_EQ(row(fisher, 1), (Row{3, 1}));
  EXPECT_EQ(row(fisher, 2), (Row{1, 3}));
}

TEST_F(CodebookError, WithoutEnergyTheColumnSumsThenOnes) {
  Tensor fisher = fisher_of(3, {2, 4, 0, 0, 1, 5});
  std::vector<double> none{0.0, 0.0};
  const Tensor column_energy = store(memory_, DType::f64, {2}, none);
  EXPECT_EQ(solver_->fill_uninformed_rows(fisher.view(), column_energy.view()).from_energy, 1);
  EXPECT_EQ(row(fisher, 1), (Row{1.5F, 4.5F}));
  Tensor empty = fisher_of(2, {0, 0, 0, 0});
  const auto filled = solver_->fill_uninformed_rows(empty.view(), std::nullopt);
  EXPECT_EQ(filled.from_energy, 0);
  EXPECT_EQ(filled.from_ones, 2);
  EXPECT_EQ(row(empty, 1), (Row{1, 1}));
}

TEST_F(CodebookError, DequantizesAndMeasuresByTheDefinition) {
  for (const std::int64_t rows : {1, 31, 67}) {
    const CodebookCase module = random_case(memory_, DType::bf16, rows, 129, 6);
    Tensor mask = memory_.allocate(DType::u8, {rows, 129});
    solver_->choose_outliers(module.weight.view(), module.fisher.view(), {9, 2.0}, mask.view());
    const CodebookTensor result =
        solver_->cluster(module.weight.view(), module.fisher.view(), mask.view(), {});
    Tensor out = memory_.allocate(DType::f32, {rows, 129});
    solver_->dequantize(result, out.view());
    const Decoded decoded = decode(result);
    double norm = 0.0;
    for (std::size_t i = 0; i < decoded.values.values.size(); ++i) {
      ASSERT_EQ(static_cast<double>(out.view().as<float>()[i]), decoded.values.values[i]);
      norm += module.f.values[i] * module.w.values[i] * module.w.values[i];
    }
    Tensor error = memory_.allocate(DType::f64, {2});
    solver_->weighted_error(module.weight.view(), out.view(), module.fisher.view(), error.view());
    const double expected = weighted_error_of(module, result);
    EXPECT_NEAR(error.view().as<double>()[0], expected, 1e-12 * expected);
    EXPECT_NEAR(error.view().as<double>()[1], norm, 1e-12 * norm);
  }
}

TEST_F(CodebookError, GainsFallIntoQuartersOfOctaves) {
  // w = 1, q = 0: the gain is F.
  const std::vector<double> gains{
      0.0, 1.0, std::nextafter(1.0F, 0.0F), 2.0, 1.5, 1.0 / 3.0, 1e-30, 3e38, 1e-46 * 1e10, 1.18};
  std::vector<double> ones(gains.size(), 1.0);
  std::vector<double> zeros(gains.size(), 0.0);
  std::vector<double> f = gains;
  const Shape shape{2, static_cast<std::int64_t>(gains.size()) / 2};
  const Tensor weight = store(memory_, DType::bf16, shape, ones);
  const Tensor quantized = store(memory_, DType::f32, shape, zeros);
  const Tensor fisher = store(memory_, DType::f32, shape, f);
  Tensor counts = memory_.allocate(DType::i64, {CodebookSolver::gain_bins});
  Tensor sums = memory_.allocate(DType::f64, {CodebookSolver::gain_bins});
  solver_->count_gains(weight.view(), quantized.view(), fisher.view(), counts.view(), sums.view());
  std::vector<std::int64_t> expected(CodebookSolver::gain_bins);
  std::vector<double> expected_sums(CodebookSolver::gain_bins);
  for (const double gain : f) {
    if (gain == 0.0) continue;
    std::size_t bin = 0;
    while (bin + 1 < expected.size() &&
           std::exp2((static_cast<double>(bin) + 1.0 - 600.0) / 4.0) <= gain)
      ++bin;
    ++expected[bin];
    expected_sums[bin] += gain;
  }
  const auto* count = counts.view().as<std::int64_t>();
  EXPECT_EQ(std::vector<std::int64_t>(count, count + expected.size()), expected);
  const auto* sum = sums.view().as<double>();
  EXPECT_EQ(std::vector<double>(sum, sum + expected.size()), expected_sums);
  EXPECT_EQ(count[600], 1 + 1);  // 1 and 1.18; the next quarter begins at 1.189
}

TEST_F(CodebookError, ViewsThatDoNotFitAreRefused) {
  const CodebookCase module = random_case(memory_, DType::bf16, 4, 8, 1);
  const auto cluster = [&](const CodebookSpec& spec, std::optional<ConstTensorView> mask) {
    solver_->cluster(module.weight.view(), module.fisher.view(), mask, spec);
  };
  EXPECT_THROW(cluster({1, DType::f32}, std::nullopt), ShapeError);
  EXPECT_THROW(cluster({9, DType::f32}, std::nullopt), ShapeError);
  EXPECT_THROW(cluster({4, DType::bf16}, std::nullopt), ShapeError);
  EXPECT_THROW(cluster({4, DType::f32}, module.fisher.view()), ShapeError);
  Tensor mask = memory_.allocate(DType::u8, {4, 8});
  EXPECT_THROW(
      solver_->choose_outliers(module.weight.view(), module.fisher.view(), {-1, {}}, mask.view()),
      ShapeError);
  EXPECT_THROW(solver_->count_ranges(module.weight.view(), mask.view()), ShapeError);
  EXPECT_THROW(solver_->weighted_error(module.weight.view(), module.weight.view(),
                                       module.fisher.view(), mask.view()),
               ShapeError);
  EXPECT_THROW(solver_->fill_uninformed_rows(mask.view(), std::nullopt), ShapeError);
}

}  // namespace
}  // namespace quern::test
