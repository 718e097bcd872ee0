#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "kernels/core/error.h"
#include "tests/kernels/cpu/factor_batch_case.h"
#include "tests/kernels/cpu/solver_case.h"
#include "tests/support/message_of.h"

namespace quern::test {
namespace {

constexpr ActOrder kOrders[] = {ActOrder::none, ActOrder::group_aware, ActOrder::full};

Matrix square(std::initializer_list<double> values) {
  const auto n = static_cast<std::int64_t>(std::lround(std::sqrt(values.size())));
  Matrix matrix(n, n);
  std::copy(values.begin(), values.end(), matrix.values.begin());
  return matrix;
}

class Factorise : public testing::Test {
 protected:
  HessianFactor factorise(const Matrix& h, ActOrder order = ActOrder::none,
                          std::int64_t group_size = 32, const Damping& damping = {}) {
    GramCase gram = make_gram(memory_, h);
    return solver_->factorise({"m", gram.view(), order, group_size, damping});
  }

  CpuMemory memory_;
  std::unique_ptr<Solver> solver_ = make_cpu_solver(memory_, 2);
};

TEST_F(Factorise, HandSized) {
  // [[8, 2], [2, 4]] = R R^T with R = [[sqrt 7, 1], [0, 2]].
  const HessianFactor factor =
      factorise(square({8, 2, 2, 4}), ActOrder::none, -1, {.fraction = 0.0, .max_fraction = 0.0});
  const auto* s = factor.feedback.view().as<double>();
  EXPECT_NEAR(s[0], 1.0, 1e-15);
  EXPECT_NEAR(s[1], 0.5, 1e-15);
  EXPECT_EQ(s[2], 0.0);
  EXPECT_NEAR(s[3], 1.0, 1e-15);
  EXPECT_NEAR(factor.weight.view().as<double>()[0], 7.0, 1e-14);
  EXPECT_NEAR(factor.weight.view().as<double>()[1], 4.0, 1e-14);
  EXPECT_EQ(factor.diagonal.view().as<double>()[0], 8.0);
  EXPECT_EQ(factor.dead_columns, 0);
}

TEST_F(Factorise, FactorGivesDampedHessianBack) {
  for (const std::int64_t n : {1, 31, 33, 127, 129, 300}) {
    for (const ActOrder order : kOrders) {
      GramCase gram = make_gram(memory_, correlated_hessian(n, 7));
      const HessianFactor factor = solver_->factorise({"m", gram.view(), order, 32, {}});
      const auto steps = textbook_order(gram.h, order, 32);
      const Matrix expected = damped_hessian(gram.h, steps, 0.01);
      const auto* s = factor.feedback.view().as<double>();
      const auto* weight = factor.weight.view().as<double>();
      const double tolerance = 4.0 * static_cast<double>(n) * 0x1p-52;
      for (std::int64_t i = 0; i < n; ++i) {
        ASSERT_EQ(factor.order.view().as<std::int32_t>()[i], steps[static_cast<std::size_t>(i)]);
        for (std::int64_t j = 0; j < n; ++j) {
          double sum = 0.0;
          for (std::int64_t k = std::max(i, j); k < n; ++k) {
            sum += s[i * n + k] * weight[k] * s[j * n + k];
          }
          const double size = std::sqrt(expected(i, i) * expected(j, j));
          ASSERT_NEAR(sum, expected(i, j), tolerance * size) << n << " at " << i << ", " << j;
          ASSERT_TRUE(j >= i || s[i * n + j] == 0.0);
        }
      }
    }
  }
}

TEST_F(Factorise, TiesKeepTheIndexOrder) {
  Matrix h(7, 7);
  const double diagonal[] = {1, 3, 3, 2, 3, 1, 3};
  for (std::int64_t k = 0; k < 7; ++k) h(k, k) = diagonal[k];
  const auto order_of = [&](ActOrder order) {
    const HessianFactor factor = factorise(h, order, 3);
    const auto* begin = factor.order.view().as<std::int32_t>();
    return std::vector<std::int32_t>(begin, begin + 7);
  };
  EXPECT_EQ(order_of(ActOrder::full), (std::vector<std::int32_t>{1, 2, 4, 6, 3, 0, 5}));
  EXPECT_EQ(order_of(ActOrder::group_aware), (std::vector<std::int32_t>{1, 2, 0, 4, 3, 5, 6}));
  EXPECT_EQ(order_of(ActOrder::none), (std::vector<std::int32_t>{0, 1, 2, 3, 4, 5, 6}));
}

TEST_F(Factorise, SameBitsForAnyThreadCount) {
  const Matrix h = correlated_hessian(700, 3);
  GramCase gram = make_gram(memory_, h);
  const HessianFactor one =
      make_cpu_solver(memory_, 1)->factorise({"m", gram.view(), ActOrder::full, 128, {}});
  for (const int threads : {2, 3}) {
    const HessianFactor many =
        make_cpu_solver(memory_, threads)->factorise({"m", gram.view(), ActOrder::full, 128, {}});
    EXPECT_TRUE(same_bytes(one.feedback, many.feedback)) << threads;
    EXPECT_TRUE(same_bytes(one.weight, many.weight)) << threads;
    EXPECT_TRUE(same_bytes(one.order, many.order)) << threads;
  }
}

TEST_F(Factorise, DeadColumnsAreCountedAndCutOff) {
  // Channel 1 underflowed on the diagonal only; what is left of its row must not enter the solve.
  const HessianFactor factor = factorise(square({4, 0.5, 1, 0.5, 0, 0.5, 1, 0.5, 4}));
  EXPECT_EQ(factor.dead_columns, 1);
  EXPECT_EQ(factor.diagonal.view().as<double>()[1], 0.0);
  const auto* s = factor.feedback.view().as<double>();
  EXPECT_EQ(s[1], 0.0);
  EXPECT_EQ(s[5], 0.0);
  EXPECT_GT(s[2], 0.0);
}

TEST_F(Factorise, DampingGrowsUntilTheFactorExists) {
  // Eigenvalues 3 and -1, mean diagonal 1: the first damping above 1 is 0.01 * 2^7.
  const Matrix indefinite = square({1, 2, 2, 1});
  EXPECT_DOUBLE_EQ(factorise(indefinite).damping_fraction, 1.28);
  EXPECT_THROW(factorise(indefinite, ActOrder::none, -1, {.fraction = 0.01, .max_fraction = 0.5}),
               InputError);
  // Rank one: without damping the second pivot is only rounding error.
  const Matrix singular = square({1, 3, 3, 9});
  EXPECT_DOUBLE_EQ(factorise(singular, ActOrder::none, -1, {.fraction = 0.0, .max_fraction = 1.0})
                       .damping_fraction,
                   1e-4);
  EXPECT_THROW(
      factorise(square({8, 2, 2, 4}), ActOrder::none, -1, {.fraction = 0.02, .max_fraction = 0.01}),
      ShapeError);
}

TEST_F(Factorise, SeveralAtOnceAreAsAlone) {
  GramCase first = make_gram(memory_, correlated_hessian(60, 7));
  GramCase second = make_gram(memory_, correlated_hessian(60, 8));
  Matrix equal_inputs = correlated_hessian(60, 9);
  make_inputs_equal(equal_inputs, 6, 5);
  GramCase singular = make_gram(memory_, equal_inputs);
  const HessianTask tasks[] = {{"a", first.view(), ActOrder::none, -1, {}},
                               {"b", singular.view(), ActOrder::full, -1, {.fraction = 0.0}},
                               {"c", second.view(), ActOrder::full, -1, {}},
                               {"c", second.view(), ActOrder::group_aware, 32, {}}};
  expect_factors_as_alone(memory_, *solver_, tasks);
  EXPECT_GT(solver_->factorise(tasks[1]).damping_fraction, 0.0);
  EXPECT_TRUE(solver_->factorise(std::span<const HessianTask>()).empty());
}

TEST_F(Factorise, OfSeveralTheOneThatCannotBeIsNamed) {
  GramCase good = make_gram(memory_, correlated_hessian(3, 7));
  GramCase zero = make_gram(memory_, Matrix(3, 3));
  GramCase larger = make_gram(memory_, correlated_hessian(4, 7));
  const auto both = [&](const HessianTask& task) {
    return std::vector<HessianTask>{{"good", good.view(), ActOrder::none, -1, {}}, task};
  };
  EXPECT_THAT(message_of<InputError>([&] {
                solver_->factorise(both({"bad", zero.view()}));
              }),
              testing::HasSubstr("module 'bad': the diagonal of H"));
  EXPECT_THROW(solver_->factorise(both({"larger", larger.view()})), ShapeError);
}

TEST_F(Factorise, RefusesDamagedStatistics) {
  EXPECT_THROW(factorise(Matrix(3, 3)), InputError);
  EXPECT_THROW(factorise(square({-1, 0, 0, 1})), InputError);

  GramCase infinite = make_gram(memory_, square({1, 0, 0, 1}));
  infinite.exponents.view().as<std::int32_t>()[1] = -2000;
  EXPECT_THROW(solver_->factorise({"m", infinite.view(), ActOrder::none, -1, {}}), InputError);

  GramCase overflowed = make_gram(memory_, square({1, 0, 0, 1}));
  overflowed.overflow.view().as<std::int64_t>()[0] = 1;
  EXPECT_THROW(solver_->factorise({"m", overflowed.view(), ActOrder::none, -1, {}}), InternalError);
}

TEST_F(Factorise, RefusesWrongShapes) {
  GramCase gram = make_gram(memory_, square({1, 0, 0, 1}));
  GramView view = gram.view();
  view.exponents = view.exponents.rows(0, 1);
  EXPECT_THROW(solver_->factorise({"m", view, ActOrder::none, -1, {}}), ShapeError);
  EXPECT_THROW(solver_->factorise({"m", gram.view(), ActOrder::none, 0, {}}), ShapeError);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THROW(solver_->factorise({"m", gram.view(), ActOrder::none, -1, {.fraction = nan}}),
               ShapeError);
}

}  // namespace
}  // namespace quern::test
