#include "kernels/cpu/kmeans_row.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>

#include "kernels/core/float16.h"
#include "tests/kernels/cpu/codebook_case.h"
#include "tests/support/lloyd.h"
#include "tests/support/paths.h"

namespace quern::test {
namespace {

/// sum weight (value - mean)^2 of points [begin, end), from the definition.
long double interval_cost(const LinePoints& points, std::size_t begin, std::size_t end) {
  long double mass = 0.0L;
  long double moment = 0.0L;
  for (std::size_t i = begin; i < end; ++i) {
    mass += points.weights[i];
    moment += static_cast<long double>(points.weights[i]) * points.values[i];
  }
  long double cost = 0.0L;
  for (std::size_t i = begin; i < end; ++i) {
    const long double distance = points.values[i] - moment / mass;
    cost += points.weights[i] * distance * distance;
  }
  return cost;
}

long double partition_cost(const LinePoints& points, std::span<const std::int32_t> ends) {
  long double cost = 0.0L;
  std::size_t begin = 0;
  for (const std::int32_t end : ends) {
    cost += interval_cost(points, begin, static_cast<std::size_t>(end));
    begin = static_cast<std::size_t>(end);
  }
  EXPECT_EQ(begin, points.values.size());
  return cost;
}

/// The least cost over every partition of points [begin, end) into at most `intervals`.
long double least_cost(const LinePoints& points, std::size_t begin, int intervals) {
  const std::size_t n = points.values.size();
  if (begin == n) return 0.0L;
  long double least = interval_cost(points, begin, n);
  for (std::size_t end = begin + 1; end < n && intervals > 1; ++end) {
    least =
        std::min(least, interval_cost(points, begin, end) + least_cost(points, end, intervals - 1));
  }
  return least;
}

TEST(KmeansRow, MergesLikeASortedMap) {
  PointMerger merger;
  for (unsigned seed = 0; seed < 20; ++seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    std::vector<float> w(1 + engine() % 700);
    std::vector<float> f(w.size());
    std::vector<std::uint8_t> mask(w.size());
    for (std::size_t k = 0; k < w.size(); ++k) {
      w[k] = seed % 2 == 0 ? bf16_to_float(float_to_bf16(normal(engine))) : normal(engine);
      if (engine() % 5 == 0) w[k] = engine() % 2 == 0 ? -0.0F : 0.0F;
      f[k] = engine() % 4 == 0 ? 0.0F : std::exp(normal(engine));
      mask[k] = engine() % 9 == 0 ? 1 : 0;
    }
    std::map<double, double> expected;
    for (std::size_t k = 0; k < w.size(); ++k) {
      if (f[k] > 0.0F && mask[k] == 0)
        expected[static_cast<double>(w[k])] += static_cast<double>(f[k]);
    }
    if (expected.empty()) continue;
    const LinePoints& points = merger.merge(w, f.data(), mask.data());
    ASSERT_EQ(points.values.size(), expected.size());
    std::size_t i = 0;
    for (const auto& [value, weight] : expected) {
      EXPECT_EQ(points.values[i], value);
      EXPECT_EQ(points.weights[i++], weight);
    }
  }
}

TEST(KmeansRow, WeightsWithoutAnyFCountAsOne) {
  PointMerger merger;
  const std::vector<float> w{2.0F, -1.0F, 2.0F, 7.0F};
  const std::vector<float> f(4, 0.0F);
  const std::vector<std::uint8_t> mask{0, 0, 0, 1};
  const LinePoints& points = merger.merge(w, f.data(), mask.data());
  EXPECT_EQ(points.values, (std::vector<double>{-1.0, 2.0}));
  EXPECT_EQ(points.weights, (std::vector<double>{1.0, 2.0}));
  const std::vector<std::uint8_t> all(4, 1);
  EXPECT_TRUE(merger.merge(w, f.data(), all.data()).values.empty());
}

TEST(KmeansRow, NoPartitionIsBetter) {
  LineClustering clustering;
  PointMerger merger;
  for (unsigned seed = 0; seed < 600; ++seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    std::vector<float> w(1 + engine() % 13);
    std::vector<float> f(w.size());
    for (std::size_t k = 0; k < w.size(); ++k) {
      // Few distinct values: many ties between partitions.
      w[k] = seed % 3 == 0 ? static_cast<float>(engine() % 6) : normal(engine);
      f[k] = seed % 2 == 0 ? 1.0F : engine() % 5 == 0 ? 0.0F : std::exp(3.0F * normal(engine));
    }
    const LinePoints& points = merger.merge(w, f.data(), nullptr);
    for (const int intervals : {1, 2, 3, 4, 8}) {
      const auto ends = clustering.solve(points, intervals);
      ASSERT_LE(ends.size(), static_cast<std::size_t>(intervals));
      const long double least = least_cost(points, 0, intervals);
      const long double scale = interval_cost(points, 0, points.values.size());
      ASSERT_LE(partition_cost(points, ends), least + 1e-13L * scale)
          << "seed " << seed << " intervals " << intervals;
    }
  }
}

/// Plain quadratic dynamic programming: covers the long ranges that brute force cannot.
long double quadratic_program(const LinePoints& points, int intervals) {
  const std::size_t n = points.values.size();
  std::vector<long double> mass(n + 1), moment(n + 1), square(n + 1);
  for (std::size_t i = 0; i < n; ++i) {
    const long double value = points.values[i];
    mass[i + 1] = mass[i] + points.weights[i];
    moment[i + 1] = moment[i] + points.weights[i] * value;
    square[i + 1] = square[i] + points.weights[i] * value * value;
  }
  std::vector<long double> least(n + 1, std::numeric_limits<long double>::infinity());
  least[0] = 0.0L;
  for (int layer = 0; layer < intervals; ++layer) {
    for (std::size_t j = n; j > 0; --j) {
      for (std::size_t i = 0; i < j; ++i) {
        const long double part = moment[j] - moment[i];
        least[j] = std::min(least[j],
                            least[i] + square[j] - square[i] - part * part / (mass[j] - mass[i]));
      }
    }
  }
  return least[n];
}

TEST(KmeansRow, LongRowsAgreeWithTheQuadraticProgram) {
  LineClustering clustering;
  PointMerger merger;
  for (const std::size_t n : {17U, 31U, 64U, 127U, 129U, 400U, 801U}) {
    const std::vector<double> draws = normal_values(static_cast<std::int64_t>(2 * n), 7);
    std::vector<float> w(n), f(n);
    for (std::size_t k = 0; k < n; ++k) {
      w[k] = static_cast<float>(5.0 + draws[k]);
      f[k] = static_cast<float>(std::exp(3.0 * draws[n + k]));
    }
    const LinePoints& points = merger.merge(w, f.data(), nullptr);
    for (const int intervals : {4, 8, 16}) {
      const long double cost = partition_cost(points, clustering.solve(points, intervals));
      const long double least = quadratic_program(points, intervals);
      EXPECT_NEAR(static_cast<double>(cost / least), 1.0, 1e-9) << n << " " << intervals;
    }
  }
}

TEST(KmeansRow, EightBitsAndMassesThatVanishBesideOthers) {
  LineClustering clustering;
  LinePoints points;
  for (int i = 0; i < 500; ++i) {
    points.values.push_back(i);
    points.weights.push_back(i % 7 == 0 ? 1e30 : 1e-30);
  }
  const auto ends = clustering.solve(points, 256);
  EXPECT_LE(ends.size(), 256U);
  // 72 heavy points and 256 intervals: no heavy point needs to share one with another.
  EXPECT_LT(partition_cost(points, ends), 1.0L);
}

TEST(KmeansRow, NeverAboveLloydOnRealRows) {
  if (shared_dir().empty()) GTEST_SKIP() << kNoShared;
  CpuMemory memory;
  LineClustering clustering;
  PointMerger merger;
  const RealModule real = real_module(memory, "llama3m", "model.layers.1.mlp.down_proj");
  const CodebookCase& module = real.module;
  double exact_sum = 0.0;
  double lloyd_sum = 0.0;
  for (std::int64_t n = 0; n < 24; ++n) {
    std::vector<float> w, f;
    for (std::int64_t k = 0; k < module.w.columns; ++k) {
      w.push_back(static_cast<float>(module.w(n, k)));
      f.push_back(static_cast<float>(module.f(n, k)));
    }
    const LinePoints& points = merger.merge(w, f.data(), nullptr);
    const auto exact = static_cast<double>(partition_cost(points, clustering.solve(points, 8)));
    double least = std::numeric_limits<double>::infinity();
    for (unsigned seed = 0; seed < 20; ++seed)
      least = std::min(least, lloyd(w, f, 8, seed).objective);
    EXPECT_LE(exact, least * (1.0 + 1e-12));
    exact_sum += exact;
    lloyd_sum += lloyd(w, f, 8, 0).objective;
  }
  EXPECT_LT(exact_sum, lloyd_sum);
}

}  // namespace
}  // namespace quern::test
