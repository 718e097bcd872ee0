#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <vector>

#include "tests/kernels/cuda/module_case.h"

namespace quern::test {
namespace {

using CudaQuadraticErrorTest = CudaModuleCase;

/// |x_n| |H| |x_n|^T for row n of x.
double sum_of_terms(const std::vector<float>& x, const Matrix& h, std::int64_t n) {
  double sum = 0.0;
  const auto columns = static_cast<std::size_t>(h.columns);
  const float* row = x.data() + n * h.columns;
  for (std::size_t i = 0; i < columns; ++i) {
    for (std::size_t j = 0; j < columns; ++j) {
      sum += static_cast<double>(std::fabs(row[i] * row[j])) * std::fabs(h.values[i * columns + j]);
    }
  }
  return sum;
}

/// A dense H of many columns that takes no time to make.
Matrix toeplitz(std::int64_t columns) {
  Matrix h(columns, columns);
  for (std::int64_t i = 0; i < columns; ++i) {
    for (std::int64_t j = 0; j < columns; ++j) {
      h(i, j) = 1.0 / (1.0 + static_cast<double>(std::abs(i - j)));
    }
  }
  return h;
}

TEST_P(CudaQuadraticErrorTest, MeasuresTheQuadraticError) {
  constexpr std::int64_t kRows = 65;
  for (const std::int64_t columns : {1, 33, 129, 1101}) {
    const Tensor weight = cpu_weight(DType::bf16, kRows, columns, 9);
    const Tensor cuda_weight = to_cuda(weight);
    const Tensor rounded = cpu_weight(DType::f32, kRows, columns, 10);
    const Tensor cuda_rounded = to_cuda(rounded);
    TwinGram h = columns > 200 ? gram(toeplitz(columns)) : gram(columns, 11);
    Tensor expected = cpu().memory().allocate(DType::f64, {kRows, 2});
    Tensor actual = cuda().memory().allocate(DType::f64, {kRows, 2});
    cpu().solver().quadratic_error(weight.view(), rounded.view(), h.cpu.view(), expected.view());
    cuda().solver().quadratic_error(cuda_weight.view(), cuda_rounded.view(), h.cuda.view(),
                                    actual.view());
    const std::vector<double> got = elements<double>(to_cpu(actual));
    const std::vector<double> right = elements<double>(expected);
    Tensor single = cpu().memory().allocate(DType::f32, weight.shape());
    cpu().layers().convert(weight.view(), single.view());
    const std::vector<float> weights = elements<float>(single);
    std::vector<float> differences = elements<float>(rounded);
    for (std::size_t i = 0; i < weights.size(); ++i) differences[i] -= weights[i];
    for (const std::size_t kind : {0, 1}) {
      double got_sum = 0.0;
      double right_sum = 0.0;
      double all_terms = 0.0;
      for (std::int64_t n = 0; n < kRows; ++n) {
        const std::size_t at = 2 * static_cast<std::size_t>(n) + kind;
        const double terms = sum_of_terms(kind == 0 ? differences : weights, h.cpu.h, n);
        EXPECT_NEAR(got[at], right[at], 0x1p-9 * terms) << "row " << n;
        got_sum += got[at];
        right_sum += right[at];
        all_terms += terms;
      }
      // Errors of single products cancel over the rows.
      EXPECT_NEAR(got_sum, right_sum, 0x1p-9 * right_sum + 0x1p-13 * all_terms);
    }
  }
}

/// Ranks that share a module's rows measure what one alone would.
TEST_P(CudaQuadraticErrorTest, RowsAreMeasuredAloneAsBesideOthers) {
  constexpr std::int64_t kRows = 450;
  for (const std::int64_t columns : {129, 1280, 2100}) {
    const Tensor weight = to_cuda(cpu_weight(DType::bf16, kRows, columns, 9));
    const Tensor rounded = to_cuda(cpu_weight(DType::f32, kRows, columns, 10));
    TwinGram h = gram(toeplitz(columns));
    Tensor together = cuda().memory().allocate(DType::f64, {kRows, 2});
    Tensor apart = cuda().memory().allocate(DType::f64, {kRows, 2});
    cuda().solver().quadratic_error(weight.view(), rounded.view(), h.cuda.view(), together.view());
    const std::vector<std::int64_t> cuts = {0, 64, 320, 448, kRows};
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
      const std::int64_t count = cuts[i + 1] - cuts[i];
      cuda().solver().quadratic_error(weight.view().rows(cuts[i], count),
                                      rounded.view().rows(cuts[i], count), h.cuda.view(),
                                      apart.view().rows(cuts[i], count));
    }
    EXPECT_EQ(elements<double>(to_cpu(apart)), elements<double>(to_cpu(together))) << columns;
  }
}

INSTANTIATE_TEST_SUITE_P(Solver, CudaQuadraticErrorTest, testing::Values(DType::bf16), type_name);

}  // namespace
}  // namespace quern::test
