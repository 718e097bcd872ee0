#include "pipeline/quantizers/squeezellm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "kernels/core/error.h"
#include "kernels/core/float16.h"
#include "tests/pipeline/quantizers/host_matrix.h"

namespace quern::test {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

QuantizeConfig tables(CodebookSearch search = CodebookSearch::kmeans,
                      CodebookType type = CodebookType::float32) {
  QuantizeConfig config = config_of(Method::squeezellm);
  config.codebook_search = search;
  config.codebook_type = type;
  config.codebook_damping = 0.0;
  return config;
}

/// A module with its statistics, and what solving it gives.
class Solved {
 public:
  Solved(const HostTensor& weight, const HostTensor& fisher) : weight_host_(weight) {
    weight_ = memory().to_device(weight);
    statistics_.modules["m"].fisher = memory().to_device(fisher);
  }

  /// H of inputs x [T, K].
  void guide(const HostTensor& x) {
    const Tensor device = memory().to_device(x);
    Gram gram = make_gram(memory(), x.shape[1]);
    backend_->statistics().choose_gram_exponents(device.view(), x.shape[0], 10,
                                                 gram.exponents.view());
    backend_->statistics().accumulate_gram(device.view(), x.shape[0], gram.view());
    memory().synchronize();
    statistics_.modules["m"].guided = std::move(gram);
  }

  const CodebookTensor& solve(const QuantizeConfig& config, int bits,
                              const OutlierChoice& outliers = {}) {
    const ModuleTask task{"m", weight_.view(), {.bits = bits, .group_size = -1}, outliers};
    auto solved = test::solve(*make_quantizer(config), *backend_, std::span(&task, 1), statistics_);
    EXPECT_EQ(solved.size(), 1U);
    result_ = std::move(solved.front());
    return std::get<CodebookTensor>(result_.tensor);
  }

  template <typename T>
  std::vector<T> host(const Tensor& tensor) {
    const HostTensor copy = memory().to_host(tensor.view());
    return {copy.as<T>().begin(), copy.as<T>().end()};
  }
  /// Weights that codes, table and outliers stand for, put together here.
  std::vector<float> values() {
    const auto& made = std::get<CodebookTensor>(result_.tensor);
    const auto codes = host<std::uint8_t>(made.codes);
    const auto table = host<float>(made.table);
    const auto rows = host<std::int32_t>(made.rows);
    const auto cols = host<std::int32_t>(made.cols);
    const auto vals = host<float>(made.vals);
    const auto columns = static_cast<std::size_t>(weight_host_.shape[1]);
    const std::size_t entries = table.size() / static_cast<std::size_t>(weight_host_.shape[0]);
    std::vector<float> result;
    for (std::size_t i = 0; i < codes.size(); ++i) {
      result.push_back(table[i / columns * entries + codes[i]]);
    }
    for (std::size_t n = 0; n + 1 < rows.size(); ++n) {
      for (auto i = static_cast<std::size_t>(rows[n]); i < static_cast<std::size_t>(rows[n + 1]);
           ++i) {
        result[n * columns + static_cast<std::size_t>(cols[i])] += vals[i];
      }
    }
    return result;
  }
  const SolvedModule& result() const { return result_; }
  std::vector<float> fisher() { return host<float>(*statistics_.modules["m"].fisher); }

  Backend& backend() { return *backend_; }
  Memory& memory() { return backend_->memory(); }

 private:
  std::unique_ptr<Backend> backend_ = make_cpu_backend(1);
  HostTensor weight_host_;
  Tensor weight_;
  BundleStatistics statistics_;
  SolvedModule result_;
};

TEST(SqueezeLlm, AsksForFisherAndForMoreWhenItRefines) {
  const StatisticsNeeded plain = make_quantizer(tables())->needed();
  EXPECT_TRUE(plain.fisher);
  EXPECT_FALSE(plain.gram || plain.guided);
  const StatisticsNeeded refined = make_quantizer(tables(CodebookSearch::lnq))->needed();
  EXPECT_TRUE(refined.fisher && refined.guided);
  EXPECT_FALSE(refined.gram);
}

/// Row 0: {0, 0, 1} {4} {8, 8.5} {20}; centroids 1/4 (weights 1, 2, 1), 4, (3 * 8 + 8.5) / 4, 20.
/// Row 1 is held by its sensitive weights: those without weight join the nearest.
TEST(SqueezeLlm, TablesAreTheWeightedMeansFoundByHand) {
  Solved solved(host_matrix({{8, 0, 20, 4, 0, 8.5F, 1}, {1, 2, 3, 10, 2.4F, 9, -7}}),
                host_matrix({{3, 1, 1, 5, 2, 1, 1}, {1, 1, 1, 1, 0, 0, 0}}));
  const CodebookTensor& made = solved.solve(tables(), 2);
  EXPECT_THAT(solved.host<float>(made.table), ElementsAre(0.25F, 4, 8.125F, 20, 1, 2, 3, 10));
  EXPECT_THAT(solved.host<std::uint8_t>(made.codes),
              ElementsAre(2, 0, 3, 1, 0, 2, 0, 0, 1, 2, 3, 1, 3, 0));
  EXPECT_THAT(solved.host<std::int32_t>(made.rows), ElementsAre(0, 0, 0));
  EXPECT_THAT(solved.host<float>(made.vals), IsEmpty());
  EXPECT_EQ(solved.result().uninformed_rows, 0);
  EXPECT_EQ(solved.result().damping_fraction, 0.0);
}

/// The largest F is kept, and what lies beyond a quartile range; the rest has few values.
TEST(SqueezeLlm, ThePapersRuleKeepsTheSensitiveAndTheFar) {
  Solved solved(host_matrix({{1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 100, 3.25F}}),
                host_matrix({{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 90}}));
  OutlierChoice outliers;
  outliers.rule = {.sensitive = 1, .quartile_range = 10.0};
  const CodebookTensor& made = solved.solve(tables(), 2, outliers);
  EXPECT_THAT(solved.host<std::int32_t>(made.rows), ElementsAre(0, 2));
  EXPECT_THAT(solved.host<std::int32_t>(made.cols), ElementsAre(10, 11));
  EXPECT_THAT(solved.host<float>(made.table), ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(solved.values(), ElementsAre(1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 100, 3.25F));
  // Without the threshold 100 takes a centroid of its own.
  outliers.rule.quartile_range.reset();
  const CodebookTensor& fewer = solved.solve(tables(), 2, outliers);
  EXPECT_THAT(solved.host<std::int32_t>(fewer.cols), ElementsAre(11));
  EXPECT_EQ(solved.host<float>(fewer.table)[3], 100.0F);
}

/// F is largest where the weight is on a centroid anyway: the paper's rule wastes its outlier
/// there, and 2.4 pulls the centroid of the 2s to 2.25. The joint rule keeps 2.4 instead.
TEST(SqueezeLlm, TheJointRuleKeepsWhatTheTableCannotServe) {
  const HostTensor weight = host_matrix({{1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 2.4F, 3}});
  const HostTensor fisher = host_matrix({{99, 1, 1, 1, 1, 1, 1, 1, 1, 1, 5, 1}});
  Solved solved(weight, fisher);
  OutlierChoice outliers;
  outliers.rule.sensitive = 1;
  solved.solve(tables(), 2, outliers);
  const auto objective = [&] {
    double sum = 0.0;
    const std::vector<float> values = solved.values();
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double error = static_cast<double>(weight.as<float>()[i] - values[i]);
      sum += static_cast<double>(fisher.as<float>()[i]) * error * error;
    }
    return sum;
  };
  EXPECT_NEAR(objective(), 5 * 0.15 * 0.15 + 3 * 0.25 * 0.25, 1e-5);
  outliers.joint = 1;
  const CodebookTensor& made = solved.solve(tables(), 2, outliers);
  EXPECT_THAT(solved.host<std::int32_t>(made.cols), ElementsAre(10));
  EXPECT_THAT(solved.host<float>(made.table), ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(objective(), 0.0);
}

/// Row 1 has no F: with the energy of its inputs, or the columns' F, it is clustered all the same,
/// and the statistics that the report is made of stay as they were.
TEST(SqueezeLlm, RowsWithoutInformationAreCountedAndSolved) {
  const HostTensor fisher = host_matrix({{1, 1, 1, 1, 1}, {0, 0, 0, 0, 0}, {2, 1, 0, 0, 0}});
  Solved solved(host_matrix({{1, 2, 3, 4, 4}, {1, 2, 3, 4, 4}, {1, 2, 3, 4, 4}}), fisher);
  solved.solve(tables(), 2);
  EXPECT_EQ(solved.result().uninformed_rows, 1);
  const auto values = solved.values();
  EXPECT_THAT(std::vector(values.begin() + 5, values.begin() + 10), ElementsAre(1, 2, 3, 4, 4));
  EXPECT_THAT(solved.fisher(), testing::ElementsAreArray(fisher.as<float>()));
}

TEST(SqueezeLlm, WithoutAnyFisherEveryRowIsCounted) {
  Solved solved(host_matrix({{1, 2, 3, 4}, {5, 6, 7, 8}}),
                host_matrix({{0, 0, 0, 0}, {0, 0, 0, 0}}));
  solved.solve(tables(), 2);
  EXPECT_EQ(solved.result().uninformed_rows, 2);
  EXPECT_THAT(solved.values(), ElementsAre(1, 2, 3, 4, 5, 6, 7, 8));
}

TEST(SqueezeLlm, HalfPrecisionTablesHoldHalfPrecisionValues) {
  std::mt19937 engine(3);
  std::normal_distribution<float> normal;
  HostTensor weight(DType::f32, {6, 64});
  HostTensor fisher(DType::f32, {6, 64});
  for (float& value : weight.as<float>()) value = normal(engine);
  for (float& value : fisher.as<float>()) value = std::abs(normal(engine));
  Solved solved(weight, fisher);
  const auto is_half = [](float value) { return f16_to_float(float_to_f16(value)) == value; };
  const auto single = solved.host<float>(solved.solve(tables(), 3).table);
  EXPECT_FALSE(std::ranges::all_of(single, is_half));
  const auto half = solved.host<float>(
      solved.solve(tables(CodebookSearch::kmeans, CodebookType::float16), 3).table);
  EXPECT_TRUE(std::ranges::all_of(half, is_half));
  for (std::size_t i = 0; i < half.size(); ++i) {
    EXPECT_NEAR(half[i], single[i], 1e-2F);
    EXPECT_TRUE(i % 8 == 0 || half[i - 1] <= half[i]);
  }
}

/// sum_n s_n (w - q) H (w - q)^T with H of x in float64.
double h_objective(const HostTensor& weight, const HostTensor& fisher, const HostTensor& x,
                   const std::vector<float>& values) {
  const auto columns = static_cast<std::size_t>(weight.shape[1]);
  const auto rows = static_cast<std::size_t>(weight.shape[0]);
  double total = 0.0;
  for (std::size_t n = 0; n < rows; ++n) {
    double share = 0.0;
    for (std::size_t k = 0; k < columns; ++k) {
      share += static_cast<double>(fisher.as<float>()[n * columns + k]);
    }
    for (std::size_t t = 0; t < static_cast<std::size_t>(x.shape[0]); ++t) {
      double error = 0.0;
      for (std::size_t k = 0; k < columns; ++k) {
        const std::size_t i = n * columns + k;
        error += static_cast<double>(weight.as<float>()[i] - values[i]) *
                 static_cast<double>(x.as<float>()[t * columns + k]);
      }
      total += share * error * error;
    }
  }
  return total;
}

TEST(SqueezeLlm, RefiningLowersTheErrorUnderH) {
  std::mt19937 engine(8);
  std::normal_distribution<float> normal;
  HostTensor weight(DType::f32, {12, 48});
  HostTensor fisher(DType::f32, {12, 48});
  HostTensor x(DType::f32, {100, 48});
  for (float& value : weight.as<float>()) value = normal(engine);
  for (float& value : fisher.as<float>()) value = std::pow(normal(engine), 2.0F);
  for (std::size_t t = 0; t < 100; ++t) {
    const float common = normal(engine);  // inputs that go together, as in a model
    for (std::size_t k = 0; k < 48; ++k) x.as<float>()[t * 48 + k] = common + 0.5F * normal(engine);
  }
  Solved solved(weight, fisher);
  solved.guide(x);
  for (const std::int64_t kept : {0, 6}) {
    OutlierChoice outliers;
    if (kept > 0) outliers.joint = kept;
    const CodebookTensor& plain = solved.solve(tables(), 3, outliers);
    EXPECT_EQ(plain.vals.shape()[0], kept);
    const double before = h_objective(weight, fisher, x, solved.values());
    const CodebookTensor& refined = solved.solve(tables(CodebookSearch::lnq), 3, outliers);
    EXPECT_EQ(refined.vals.shape()[0], kept);
    const double after = h_objective(weight, fisher, x, solved.values());
    EXPECT_LT(after, 0.5 * before) << kept << " outliers";
  }
}

/// A row without F gets the diagonal of H where there is one: its table serves the live inputs.
TEST(SqueezeLlm, UninformedRowsFollowTheEnergyOfTheirInputs) {
  const HostTensor weight = host_matrix({{1, 2, 3, 4, 5, 6}, {1, 2, 3, 4, 5, 6}});
  Solved solved(weight, host_matrix({{1, 1, 1, 1, 1, 1}, {0, 0, 0, 0, 0, 0}}));
  solved.guide(host_matrix(
      {{9, 9, 9, 9, 0, 0}, {9, -9, 9, -9, 0, 0}, {9, 9, -9, -9, 0, 0}, {9, -9, -9, 9, 0, 0}}));
  solved.solve(tables(CodebookSearch::lnq), 2);
  EXPECT_EQ(solved.result().uninformed_rows, 1);
  const std::vector<float> values = solved.values();
  EXPECT_THAT(std::vector(values.begin() + 6, values.begin() + 10), ElementsAre(1, 2, 3, 4));
}

/// Much damping makes every input as important as another.
TEST(SqueezeLlm, DampingOfTheConfigurationReachesTheSolver) {
  const HostTensor weight = host_matrix({{1, 2, 3, 4, 5, 6}, {1, 2, 3, 4, 5, 6}});
  Solved solved(weight, host_matrix({{1, 1, 1, 1, 1, 1}, {0, 0, 0, 0, 0, 0}}));
  solved.guide(host_matrix(
      {{9, 9, 9, 9, 0, 0}, {9, -9, 9, -9, 0, 0}, {9, 9, -9, -9, 0, 0}, {9, -9, -9, 9, 0, 0}}));
  QuantizeConfig config = tables(CodebookSearch::lnq);
  config.codebook_damping = 100.0;
  solved.solve(config, 2);
  const std::vector<float> values = solved.values();
  EXPECT_THAT(std::vector(values.begin() + 6, values.begin() + 10),
              testing::Not(ElementsAre(1, 2, 3, 4)));
}

TEST(SqueezeLlm, StatisticsThatAreMissingAreOurFault) {
  Solved solved(host_matrix({{1, 2, 3, 4}}), host_matrix({{1, 1, 1, 1}}));
  EXPECT_THROW(solved.solve(tables(CodebookSearch::lnq), 2), InternalError);
}

}  // namespace
}  // namespace quern::test
