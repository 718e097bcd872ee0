#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "kernels/core/error.h"
#include "kernels/cpu/codebook_tile.h"
#include "tests/kernels/cpu/codebook_case.h"
#include "tests/support/paths.h"

namespace quern::test {
namespace {

class CodebookRefine : public testing::Test {
 protected:
  Tensor mask_of(const CodebookCase& module, std::int64_t count) {
    Tensor mask = memory_.allocate(DType::u8, module.weight.shape());
    solver_->choose_outliers(module.weight.view(), module.fisher.view(), {count, std::nullopt},
                             mask.view());
    return mask;
  }

  CodebookTensor start_of(const CodebookCase& module, std::int64_t outliers,
                          const CodebookSpec& spec) {
    Tensor mask = mask_of(module, outliers);
    return solver_->cluster(module.weight.view(), module.fisher.view(), mask.view(), spec);
  }

  CodebookTensor refined(const CodebookCase& module, GramCase& gram, const CodebookTensor& start,
                         const CodebookSpec& spec, const RefineOptions& options) {
    return solver_->refine(module.weight.view(), module.fisher.view(), gram.view(), start, spec,
                           options);
  }

  CpuMemory memory_;
  std::unique_ptr<CodebookSolver> solver_ = make_cpu_codebook_solver(memory_, 1);
};

Matrix error_of(const CodebookCase& module, const Matrix& values) {
  Matrix error = module.w;
  for (std::size_t i = 0; i < error.values.size(); ++i) error.values[i] -= values.values[i];
  return error;
}

/// sum_n s_n e H e, dense and in float64.
double objective_of(const CodebookCase& module, const Matrix& h, const CodebookTensor& quantized) {
  const Matrix error = error_of(module, decode(quantized).values);
  double trace = 0.0;
  for (std::int64_t k = 0; k < h.rows; ++k) trace += h(k, k);
  double total = 0.0;
  for (std::int64_t n = 0; n < error.rows; ++n) {
    double sum = 0.0;
    for (std::int64_t k = 0; k < error.columns; ++k) sum += module.f(n, k);
    total += sum / trace * row_error(error, h, n);
  }
  return total;
}

/// Solves a x = b by Gaussian elimination with pivoting.
std::vector<double> solved(Matrix a, std::vector<double> b) {
  const std::int64_t n = a.rows;
  const auto at = [](std::int64_t i) { return static_cast<std::size_t>(i); };
  for (std::int64_t j = 0; j < n; ++j) {
    std::int64_t pivot = j;
    for (std::int64_t i = j; i < n; ++i)
      pivot = std::fabs(a(i, j)) > std::fabs(a(pivot, j)) ? i : pivot;
    for (std::int64_t k = 0; k < n; ++k) std::swap(a(j, k), a(pivot, k));
    std::swap(b[at(j)], b[at(pivot)]);
    for (std::int64_t i = 0; i < n; ++i) {
      if (i == j) continue;
      const double factor = a(i, j) / a(j, j);
      for (std::int64_t k = 0; k < n; ++k) a(i, k) -= factor * a(j, k);
      b[at(i)] -= factor * b[at(j)];
    }
  }
  for (std::int64_t j = 0; j < n; ++j) b[at(j)] /= a(j, j);
  return b;
}

/// Algorithm 2 of Kim et al. 2025 on one row without outliers, in plain loops: values of the row.
/// Every centroid must be in use.
struct TextbookRow {
  const Matrix& h;
  std::vector<double> w;
  std::vector<int> codes;
  std::vector<double> table;

  void fit() {
    const auto count = static_cast<std::int64_t>(table.size());
    Matrix a(count, count);
    std::vector<double> b(table.size());
    for (std::int64_t i = 0; i < h.rows; ++i) {
      for (std::int64_t j = 0; j < h.rows; ++j) {
        const auto row = static_cast<std::size_t>(i);
        const auto column = static_cast<std::size_t>(j);
        a(codes[row], codes[column]) += h(i, j);
        b[static_cast<std::size_t>(codes[row])] += h(i, j) * w[column];
      }
    }
    table = solved(a, b);
    for (double& value : table) value = static_cast<double>(static_cast<float>(value));
  }

  double objective() const {
    double sum = 0.0;
    for (std::size_t i = 0; i < w.size(); ++i) {
      for (std::size_t j = 0; j < w.size(); ++j) {
        sum += h(static_cast<std::int64_t>(i), static_cast<std::int64_t>(j)) *
               (w[i] - table[static_cast<std::size_t>(codes[i])]) *
               (w[j] - table[static_cast<std::size_t>(codes[j])]);
      }
    }
    return sum;
  }

  /// Each code in turn to the one of least objective.
  void sweep() {
    for (int& code : codes) {
      int best = 0;
      double least = std::numeric_limits<double>::infinity();
      for (code = 0; code < static_cast<int>(table.size()); ++code) {
        const double value = objective();
        best = value < least ? code : best;
        least = std::min(least, value);
      }
      code = best;
    }
  }
};

TextbookRow textbook_row(const CodebookCase& module, const Matrix& h, const CodebookTensor& start,
                         std::int64_t n) {
  TextbookRow row{h, {}, {}, {}};
  const std::int64_t count = start.table.shape()[1];
  for (std::int64_t k = 0; k < h.rows; ++k) {
    row.w.push_back(module.w(n, k));
    row.codes.push_back(start.codes.view().as<std::uint8_t>()[n * h.rows + k]);
  }
  for (std::int64_t c = 0; c < count; ++c) {
    row.table.push_back(start.table.view().as<float>()[n * count + c]);
  }
  return row;
}

TEST_F(CodebookRefine, OneRoundIsTheTextbooks) {
  for (const std::int64_t columns : {20, 31, 65}) {
    const CodebookCase module = random_case(memory_, DType::bf16, 5, columns, 41);
    GramCase gram = make_gram(memory_, correlated_hessian(columns, 5));
    const CodebookSpec spec{2, DType::f32};
    const CodebookTensor start = start_of(module, 0, spec);
    const CodebookTensor result = refined(module, gram, start, spec, {1, 2, false});
    for (std::int64_t n = 0; n < 5; ++n) {
      TextbookRow row = textbook_row(module, gram.h, start, n);
      row.fit();
      row.sweep();
      row.sweep();
      const Matrix error = error_of(module, decode(result).values);
      const double expected = row.objective();
      EXPECT_NEAR(row_error(error, gram.h, n), expected, 1e-6 * expected) << columns << " " << n;
    }
  }
}

TEST_F(CodebookRefine, NoSingleMoveHelpsWhereItEnds) {
  for (unsigned seed = 0; seed < 8; ++seed) {
    const CodebookCase module = random_case(memory_, DType::f32, 3, 9, 100 + seed);
    GramCase gram = make_gram(memory_, correlated_hessian(9, seed));
    const CodebookSpec spec{2, DType::f32};
    const CodebookTensor start = start_of(module, 0, spec);
    const CodebookTensor result = refined(module, gram, start, spec, {60, 20, false});
    for (std::int64_t n = 0; n < 3; ++n) {
      TextbookRow row = textbook_row(module, gram.h, result, n);
      const double end = row.objective();
      for (int& code : row.codes) {
        const int own = code;
        for (code = 0; code < 4; ++code) EXPECT_GE(row.objective(), end * (1.0 - 1e-9));
        code = own;
      }
      for (double& value : row.table) {
        const double own = value;
        for (const double step : {-1e-3, 1e-3}) {
          value = own * (1.0 + step);
          EXPECT_GE(row.objective(), end * (1.0 - 1e-5));
        }
        value = own;
      }
    }
  }
}

TEST_F(CodebookRefine, NeverWorseAndSoundForAllTypes) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (const DType table : {DType::f32, DType::f16}) {
      for (const std::int64_t columns : {1, 31, 129, 200}) {
        const CodebookCase module = random_case(memory_, dtype, 67, columns, 13);
        GramCase gram = make_gram(memory_, correlated_hessian(columns, 3));
        const CodebookSpec spec{3, table};
        const CodebookTensor start = start_of(module, columns / 2, spec);
        for (const RefineOptions& options :
             {RefineOptions{3, 2, true}, RefineOptions{1, 1, false}}) {
          const CodebookTensor result = refined(module, gram, start, spec, options);
          expect_sound(module, result, spec);
          EXPECT_LE(decode(result).outliers, decode(start).outliers);
          EXPECT_LE(objective_of(module, gram.h, result),
                    objective_of(module, gram.h, start) * (1.0 + 1e-9));
        }
      }
    }
  }
}

TEST_F(CodebookRefine, NoRowGetsWorseWhileTheOutliersStay) {
  const CodebookCase module = random_case(memory_, DType::bf16, 70, 130, 23);
  GramCase gram = make_gram(memory_, correlated_hessian(130, 9));
  const CodebookSpec spec{3, DType::f16};
  const CodebookTensor start = start_of(module, 100, spec);
  const CodebookTensor result = refined(module, gram, start, spec, {4, 4, false});
  const Matrix before = error_of(module, decode(start).values);
  const Matrix after = error_of(module, decode(result).values);
  EXPECT_EQ(decode(start).outlier.values, decode(result).outlier.values);
  for (std::int64_t n = 0; n < 70; ++n) {
    EXPECT_LE(row_error(after, gram.h, n), row_error(before, gram.h, n) * (1.0 + 1e-9));
  }
}

TEST_F(CodebookRefine, MovedOutliersLowerTheTotalFurther) {
  const CodebookCase module = random_case(memory_, DType::bf16, 48, 160, 29);
  GramCase gram = make_gram(memory_, correlated_hessian(160, 6));
  const CodebookSpec spec{3, DType::f32};
  const CodebookTensor start = start_of(module, 150, spec);
  const double kept =
      objective_of(module, gram.h, refined(module, gram, start, spec, {4, 4, false}));
  const CodebookTensor moved = refined(module, gram, start, spec, {4, 4, true});
  EXPECT_LT(objective_of(module, gram.h, moved), 0.95 * kept);
}

/// e H e of row n once weight k of a codebook stands for `value`.
double error_with(const CodebookCase& module, const Matrix& h, Matrix values, std::int64_t n,
                  std::int64_t k, double value) {
  values(n, k) = value;
  return row_error(error_of(module, values), h, n);
}

TEST_F(CodebookRefine, GainsAreWhatTheErrorGrowsBy) {
  const std::int64_t rows = 3;
  const std::int64_t columns = 33;
  const CodebookCase module = random_case(memory_, DType::bf16, rows, columns, 15);
  const GramCase gram = make_gram(memory_, correlated_hessian(columns, 4));
  const CodebookSpec spec{3, DType::f32};
  const CodebookTensor start = start_of(module, 20, spec);
  const Decoded decoded = decode(start);
  CodebookState from = allocate_state(memory_, module.weight.shape(), spec);
  CodebookState to = allocate_state(memory_, module.weight.shape(), spec);
  memory_.copy(start.codes.view(), from.codes.view());
  memory_.copy(start.table.view(), from.table.view());
  std::copy(decoded.outlier.values.begin(), decoded.outlier.values.end(),
            from.mask.view().as<std::uint8_t>());
  const std::vector<double> scales{1.0, 0.5, 3.0};
  std::vector<float> gains(static_cast<std::size_t>(rows * columns));
  const RefineProblem problem{module.weight.view(), gram.h.values.data(), spec, 1};
  RefineTile(problem).find_gains(from, to, 0, scales.data(), gains.data());
  for (std::int64_t n = 0; n < rows; ++n) {
    for (std::int64_t k = 0; k < columns; ++k) {
      const double exact = error_with(module, gram.h, decoded.values, n, k, module.w(n, k));
      double rounded = row_error(error_of(module, decoded.values), gram.h, n);
      if (decoded.outlier(n, k) != 0.0) {
        rounded = std::numeric_limits<double>::infinity();
        for (const float value : row_of(from, n).table) {
          rounded = std::min(rounded, error_with(module, gram.h, decoded.values, n, k,
                                                 static_cast<double>(value)));
        }
      }
      const double expected =
          std::max(0.0, scales[static_cast<std::size_t>(n)] * (rounded - exact));
      EXPECT_NEAR(static_cast<double>(gains[static_cast<std::size_t>(n * columns + k)]), expected,
                  1e-6 * (expected + exact))
          << n << " " << k;
    }
  }
}

TEST_F(CodebookRefine, AnOutlierThatTheNewTableCannotExpressIsReleased) {
  // F holds the lowest centroid at 2^-8; H, the identity, draws it to the mean of 2^-8 and 1, from
  // where 2^-22 is no float away.
  Matrix w(1, 6);
  w.values = {0x1p-8, 1, 5, 6, 7, 0x1.02p-22};
  Matrix f(1, 6);
  f.values = {1, 1e-6, 1, 1, 1, 9};
  const CodebookCase module = make_case(memory_, DType::bf16, w, f);
  Matrix h(6, 6);
  for (std::int64_t k = 0; k < 6; ++k) h(k, k) = 1.0;
  GramCase gram = make_gram(memory_, h);
  const CodebookSpec spec{2, DType::f32};
  const CodebookTensor start = start_of(module, 1, spec);
  ASSERT_EQ(decode(start).outlier(0, 5), 1.0);
  const CodebookTensor result = refined(module, gram, start, spec, {1, 1, false});
  expect_sound(module, result, spec);
  EXPECT_EQ(decode(result).outliers, 0);
  EXPECT_LT(objective_of(module, gram.h, result), objective_of(module, gram.h, start));
}

TEST_F(CodebookRefine, InputsThatWereNeverActiveKeepTheirCodes) {
  const CodebookCase module = random_case(memory_, DType::bf16, 4, 40, 3);
  Matrix h = correlated_hessian(40, 2);
  for (std::int64_t k = 0; k < 40; ++k) h(k, 7) = h(7, k) = 0.0;
  GramCase gram = make_gram(memory_, h);
  const CodebookSpec spec{3, DType::f32};
  const CodebookTensor start = start_of(module, 0, spec);
  const CodebookTensor result = refined(module, gram, start, spec, {1, 4, false});
  EXPECT_LT(objective_of(module, gram.h, result), objective_of(module, gram.h, start));
  for (std::int64_t at = 7; at < 160; at += 40) {
    EXPECT_EQ(result.codes.view().as<std::uint8_t>()[at],
              start.codes.view().as<std::uint8_t>()[at]);
  }
}

TEST_F(CodebookRefine, WithoutAnyActivationOrRoundTheStartComesBack) {
  const CodebookCase module = random_case(memory_, DType::bf16, 4, 40, 3);
  const CodebookSpec spec{4, DType::f32};
  const CodebookTensor start = start_of(module, 5, spec);
  GramCase zero = make_gram(memory_, Matrix(40, 40));
  EXPECT_EQ(bytes_of(refined(module, zero, start, spec, {3, 3, true})), bytes_of(start));
  GramCase gram = make_gram(memory_, correlated_hessian(40, 2));
  EXPECT_EQ(bytes_of(refined(module, gram, start, spec, {0, 3, true})), bytes_of(start));
}

TEST_F(CodebookRefine, SameBytesOnAnyThreads) {
  const auto run = [](int threads) {
    CpuMemory memory;
    const auto solver = make_cpu_codebook_solver(memory, threads);
    const CodebookCase module = random_case(memory, DType::bf16, 200, 150, 19);
    GramCase gram = make_gram(memory, correlated_hessian(150, 8));
    Tensor mask = memory.allocate(DType::u8, {200, 150});
    solver->choose_outliers(module.weight.view(), module.fisher.view(), {90, {}}, mask.view());
    const CodebookSpec spec{3, DType::f32};
    const CodebookTensor start =
        solver->cluster(module.weight.view(), module.fisher.view(), mask.view(), spec);
    return bytes_of(solver->refine(module.weight.view(), module.fisher.view(), gram.view(), start,
                                   spec, {3, 2, true}));
  };
  const auto single = run(1);
  for (const int threads : {2, 3, 8}) EXPECT_EQ(run(threads), single) << threads;
}

TEST_F(CodebookRefine, ARealModuleLosesMuchOfItsError) {
  if (shared_dir().empty()) GTEST_SKIP() << kNoShared;
  const RealModule real = real_module(memory_, "llama3m", "model.layers.1.self_attn.q_proj");
  GramCase gram = make_gram(memory_, real.h, 16);
  const CodebookSpec spec{3, DType::f32};
  const CodebookTensor start = start_of(real.module, 165, spec);
  const CodebookTensor result = refined(real.module, gram, start, spec, {4, 4, true});
  expect_sound(real.module, result, spec);
  EXPECT_LT(objective_of(real.module, gram.h, result),
            0.7 * objective_of(real.module, gram.h, start));
}

TEST_F(CodebookRefine, DampingIsAFractionOfTheMeanDiagonalOnTheDiagonal) {
  const CodebookCase module = random_case(memory_, DType::bf16, 5, 48, 4);
  const Matrix h = correlated_hessian(48, 3);
  Matrix damped = h;
  double trace = 0.0;
  for (std::int64_t k = 0; k < h.rows; ++k) trace += h(k, k);
  for (std::int64_t k = 0; k < h.rows; ++k) damped(k, k) += 0.25 * trace / 48.0;
  GramCase plain_gram = make_gram(memory_, h);
  GramCase damped_gram = make_gram(memory_, damped);
  const CodebookSpec spec{2, DType::f32};
  const CodebookTensor start = start_of(module, 12, spec);
  RefineOptions options;
  const CodebookTensor expected = refined(module, damped_gram, start, spec, options);
  EXPECT_NE(bytes_of(refined(module, plain_gram, start, spec, options)), bytes_of(expected));
  options.damping = 0.25;
  const CodebookTensor actual = refined(module, plain_gram, start, spec, options);
  EXPECT_NEAR(objective_of(module, damped, actual), objective_of(module, damped, expected),
              1e-6 * objective_of(module, damped, expected));
}

TEST_F(CodebookRefine, AnOverflownStatisticIsRefused) {
  const CodebookCase module = random_case(memory_, DType::bf16, 2, 8, 3);
  GramCase gram = make_gram(memory_, correlated_hessian(8, 2));
  gram.overflow.view().as<std::int64_t>()[0] = 1;
  const CodebookTensor start = start_of(module, 0, {});
  EXPECT_THROW(refined(module, gram, start, {}, {}), InternalError);
}

}  // namespace
}  // namespace quern::test
