#include "pipeline/hessian_factors.h"

#include <gtest/gtest.h>

#include "kernels/backend.h"
#include "tests/kernels/cpu/solver_case.h"

namespace quern::test {
namespace {

/// Inputs of two sizes, which want none, one, and more factors than are made at once.
TEST(HessianFactors, EveryInputGetsItsOwn) {
  const std::unique_ptr<Backend> backend = make_cpu_backend(1);
  Memory& memory = backend->memory();
  Solver& solver = backend->solver();
  std::vector<GramCase> hessians;
  for (unsigned i = 0; i < 20; ++i) {
    const std::int64_t columns = i < 14 ? 5 : 7;
    hessians.push_back(make_gram(memory, correlated_hessian(columns, i)));
  }
  std::vector<std::vector<HessianTask>> wanted;
  std::size_t used = 0;
  for (const std::size_t count : {1U, 0U, 2U, 11U, 3U, 3U, 0U}) {
    auto& of_input = wanted.emplace_back();
    for (std::size_t i = 0; i < count; ++i) of_input.push_back({"m", hessians[used++].view()});
  }
  ASSERT_EQ(used, hessians.size());
  ASSERT_GT(11U, Solver::factors_at_once(5));
  HessianFactors factors(solver, wanted);
  for (const std::vector<HessianTask>& of_input : wanted) {
    const std::vector<HessianFactor> made = factors.next();
    ASSERT_EQ(made.size(), of_input.size());
    for (std::size_t i = 0; i < made.size(); ++i) {
      const HessianFactor alone = solver.factorise(of_input[i]);
      EXPECT_EQ(memory.to_host(made[i].feedback.view()).bytes,
                memory.to_host(alone.feedback.view()).bytes);
    }
  }
}

/// They would fill the device.
TEST(HessianFactors, NoMoreAtOnceThanIsOfUse) {
  EXPECT_EQ(Solver::factors_at_once(1), 8U);
  EXPECT_EQ(Solver::factors_at_once(4096), 8U);
  EXPECT_EQ(Solver::factors_at_once(7168), 2U);
  EXPECT_EQ(Solver::factors_at_once(8192), 2U);
  EXPECT_EQ(Solver::factors_at_once(28672), 1U);
}

}  // namespace
}  // namespace quern::test
