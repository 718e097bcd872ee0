#include "pipeline/allocation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <numeric>

#include "tests/pipeline/error_curves.h"

namespace quern::test {
namespace {

using testing::HasSubstr;

TEST(QuartileRange, IsTheSmallestThatLeavesNoMoreThanTheBudget) {
  std::vector<std::int64_t> counts(16);
  counts[3] = 4;
  counts[7] = 2;
  counts[12] = 1;
  const auto bins = [&](std::int64_t budget) {
    return quartile_range_for(counts, budget).value() / CodebookSolver::range_step;
  };
  EXPECT_EQ(bins(0), 13.0);
  EXPECT_EQ(bins(1), 8.0);
  EXPECT_EQ(bins(2), 8.0) << "both of bin 7 or none";
  EXPECT_EQ(bins(3), 4.0);
  EXPECT_EQ(bins(6), 4.0);
  EXPECT_EQ(bins(7), 0.0);
  EXPECT_EQ(bins(1000), 0.0);
}

/// What lies in the last bin lies beyond any finite range that could be named.
TEST(QuartileRange, IsAbsentWhereTheOpenBinExceedsTheBudget) {
  std::vector<std::int64_t> counts(16);
  counts[15] = 5;
  EXPECT_FALSE(quartile_range_for(counts, 0));
  EXPECT_FALSE(quartile_range_for(counts, 4));
  EXPECT_EQ(quartile_range_for(counts, 5), 0.0);
}

/// Through the kernel, on two modules: exactly the weights beyond the threshold, at most the
/// budget.
TEST(QuartileRange, MeetsTheBudgetWithTheSolverThatKeepsThem) {
  const auto backend = make_cpu_backend(1);
  Memory& memory = backend->memory();
  const auto weight_of = [&](double scale, std::int64_t columns) {
    HostTensor weight(DType::f32, {8, columns});
    for (std::size_t i = 0; i < weight.as<float>().size(); ++i) {
      const double x = static_cast<double>(i * 2654435761U % 10007U) / 10007.0 * 2.0 - 1.0;
      weight.as<float>()[i] = static_cast<float>(scale * x * x * x * x * x);
    }
    return memory.to_device(weight);
  };
  std::vector<Tensor> weights;
  weights.push_back(weight_of(1.0, 200));
  weights.push_back(weight_of(3.0, 160));
  weights.push_back(memory.to_device(HostTensor(DType::f32, {2, 4})));  // of zeros alone
  Tensor counts = memory.allocate(DType::i64, {CodebookSolver::range_bins});
  memory.clear(counts.view());
  for (const Tensor& weight : weights) {
    backend->codebooks().count_ranges(weight.view(), counts.view());
  }
  memory.synchronize();
  const HostTensor counted = memory.to_host(counts.view());
  for (const std::int64_t budget : {0, 1, 7, 40, 300}) {
    const auto range = quartile_range_for(counted.as<std::int64_t>(), budget);
    ASSERT_TRUE(range);
    std::int64_t kept = 0;
    for (const Tensor& weight : weights) {
      const Tensor fisher = memory.to_device(HostTensor(DType::f32, weight.shape()));
      Tensor mask = memory.allocate(DType::u8, weight.shape());
      backend->codebooks().choose_outliers(weight.view(), fisher.view(), {0, range}, mask.view());
      const HostTensor host = memory.to_host(mask.view());
      const auto bits = host.as<std::uint8_t>();
      kept += std::accumulate(bits.begin(), bits.end(), std::int64_t{0});
    }
    EXPECT_LE(kept, budget);
    EXPECT_GE(kept, budget - 4) << "no more lie in one bin of this case";
  }
}

std::vector<FusedModules> outlier_model() {
  return {{module_of("a", 4, 8, {curve(3, 1.0, {{600, 2}, {500, 4}})}),
           module_of("b", 4, 8, {curve(3, 1.0, {{590, 1}, {500, 2}})})},
          {module_of("c", 4, 8, {curve(4, 1.0, {{500, 6}, {100, 9}})})}};
}

std::vector<std::int64_t> outliers_of(const std::map<std::string, ModuleAllocation>& modules) {
  std::vector<std::int64_t> result;
  for (const auto& [name, module] : modules) result.push_back(module.outliers);
  return result;
}

TEST(AllocateOutliers, TheLargestOfTheWholeModelComeFirst) {
  const auto outliers = [](std::int64_t count) {
    return outliers_of(allocate_outliers(outlier_model(), count));
  };
  EXPECT_EQ(outliers(0), (std::vector<std::int64_t>{0, 0, 0}));
  EXPECT_EQ(outliers(2), (std::vector<std::int64_t>{2, 0, 0}));
  EXPECT_EQ(outliers(3), (std::vector<std::int64_t>{2, 1, 0}));
  // Of the 12 in bin 500 six are left to give: 2 of 4, 1 of 2, 3 of 6.
  EXPECT_EQ(outliers(9), (std::vector<std::int64_t>{4, 2, 3}));
  EXPECT_EQ(outliers(15), (std::vector<std::int64_t>{6, 3, 6}));
  EXPECT_EQ(outliers(16), (std::vector<std::int64_t>{6, 3, 7}));
  EXPECT_EQ(outliers(1000), (std::vector<std::int64_t>{6, 3, 15})) << "all that gain anything";
  EXPECT_EQ(allocate_outliers(outlier_model(), 5).at("a").bits, 3);
  EXPECT_EQ(allocate_outliers(outlier_model(), 5).at("c").bits, 4);
}

TEST(AllocateOutliers, SharesOfABinAddUpToWhatIsAskedFor) {
  for (std::int64_t count = 0; count <= 24; ++count) {
    const auto given = outliers_of(allocate_outliers(outlier_model(), count));
    EXPECT_EQ(std::accumulate(given.begin(), given.end(), std::int64_t{0}), count);
  }
  // So many that a product of two counts has no exact double.
  const std::vector<FusedModules> large = {
      {module_of("a", 1 << 20, 1 << 12, {curve(3, 1.0, {{600, 3'431'122'847}})})},
      {module_of("b", 1 << 20, 1 << 12, {curve(3, 1.0, {{600, 2}})})}};
  const auto given = outliers_of(allocate_outliers(large, 3'342'783'921));
  EXPECT_EQ(given[0] + given[1], 3'342'783'921);
}

class MakeTask : public testing::Test {
 protected:
  ModuleTask task(const Sparsity& sparsity, const Allocation& allocation = {}) const {
    QuantizeConfig config;
    config.method = Method::squeezellm;
    config.sparsity = sparsity;
    return make_task(planned_, {nullptr, DType::f32, {20, 100}}, config, allocation);
  }
  PlannedModule planned_{{Role::query, "m", 20, 100}, {.bits = 3, .group_size = -1}};
};

TEST_F(MakeTask, WithoutSparsityThereAreNoOutliers) {
  const ModuleTask made = task({});
  EXPECT_EQ(made.name, "m");
  EXPECT_EQ(made.grid, planned_.grid);
  EXPECT_EQ(made.weight.shape, (Shape{20, 100}));
  EXPECT_EQ(made.outliers.rule.sensitive, 0);
  EXPECT_FALSE(made.outliers.rule.quartile_range);
  EXPECT_FALSE(made.outliers.joint);
}

TEST_F(MakeTask, ThePapersRuleKeepsASharePerModuleAndAThresholdOfTheModel) {
  const ModuleTask made =
      task({.sensitive = 0.0024, .magnitude = 0.004}, {.quartile_range = 3.5, .modules = {}});
  EXPECT_EQ(made.outliers.rule.sensitive, 5) << "4.8 of 2000 weights";
  EXPECT_EQ(made.outliers.rule.quartile_range, 3.5);
  EXPECT_FALSE(made.outliers.joint);
}

TEST_F(MakeTask, TheJointRuleHasAsManyPerModule) {
  const ModuleTask made = task({.sensitive = 0.003,
                                .magnitude = 0.001,
                                .rule = OutlierSelection::joint,
                                .budget = OutlierBudget::module});
  EXPECT_EQ(made.outliers.joint, 8);
  EXPECT_EQ(made.grid.bits, 3);
  EXPECT_LE(made.outliers.rule.sensitive, 8) << "the start must not hold more";
  EXPECT_FALSE(task({.rule = OutlierSelection::joint}).outliers.joint);
}

TEST_F(MakeTask, WhatWasAllocatedReplacesBitsAndOutliers) {
  const Sparsity sparsity{
      .sensitive = 0.003, .rule = OutlierSelection::joint, .budget = OutlierBudget::model};
  Allocation allocation;
  allocation.modules["m"] = {5, 17};
  allocation.modules["other"] = {2, 900};
  ModuleTask made = task(sparsity, allocation);
  EXPECT_EQ(made.grid.bits, 5);
  EXPECT_EQ(made.outliers.joint, 17);
  allocation.modules["m"] = {4, 0};
  made = task(sparsity, allocation);
  EXPECT_EQ(made.grid.bits, 4);
  EXPECT_FALSE(made.outliers.joint);
  EXPECT_EQ(made.outliers.rule.sensitive, 0) << "none at all";
}

TEST(StoredAllocation, ComesBackAsItWas) {
  Allocation allocation;
  EXPECT_EQ(read_allocation(to_json(allocation)), allocation);
  allocation.quartile_range = 0.1 + 0.2;
  allocation.modules["model.layers.0.mlp.up_proj"] = {3, 123'456'789'012};
  allocation.modules["b"] = {8, 0};
  const std::string stored = to_json(allocation).dump();
  EXPECT_EQ(read_allocation(nlohmann::json::parse(stored)), allocation);
  EXPECT_THAT(stored, HasSubstr("\"outliers\":123456789012"));
}

}  // namespace
}  // namespace quern::test
