#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "kernels/core/error.h"
#include "tests/pipeline/error_curves.h"

namespace quern::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

/// What the file holds of a module, spelled out: words, tables, and compressed sparse rows.
double bits_in_file(const ModuleCurves& module, const ModuleAllocation& allocated,
                    int table_entry_bits) {
  const std::int64_t words = (module.in_features * allocated.bits + 31) / 32;
  const std::int64_t table = (std::int64_t{1} << allocated.bits) * table_entry_bits;
  std::int64_t total = module.out_features * (32 * words + table);
  if (allocated.outliers > 0) total += 64 * allocated.outliers + 32 * (module.out_features + 1);
  return static_cast<double>(total);
}

const ErrorCurve& curve_at(const ModuleCurves& module, int bits) {
  for (const ErrorCurve& one : module.curves) {
    if (one.bits == bits) return one;
  }
  throw std::logic_error("no such width");
}

/// The error left when the `outliers` largest entries are kept exactly.
double objective_of(const ModuleCurves& module, const ModuleAllocation& allocated) {
  const ErrorCurve& one = curve_at(module, allocated.bits);
  double objective = one.objective;
  std::int64_t left = allocated.outliers;
  for (std::size_t bin = kGainBins; bin-- > 0 && left > 0;) {
    if (one.counts[bin] == 0) continue;
    const std::int64_t taken = std::min(left, one.counts[bin]);
    objective -= one.sums[bin] * static_cast<double>(taken) / static_cast<double>(one.counts[bin]);
    left -= taken;
  }
  return objective;
}

struct Spent {
  double bits = 0.0;
  double objective = 0.0;
};

Spent spent(const std::vector<FusedModules>& model,
            const std::map<std::string, ModuleAllocation>& allocated, int table_entry_bits = 32) {
  Spent total;
  for (const FusedModules& group : model) {
    for (const ModuleCurves& module : group) {
      const ModuleAllocation& one = allocated.at(module.name);
      total.bits += bits_in_file(module, one, table_entry_bits);
      total.objective += objective_of(module, one);
    }
  }
  return total;
}

std::int64_t count_weights(const std::vector<FusedModules>& model) {
  std::int64_t weights = 0;
  for (const FusedModules& group : model) {
    for (const ModuleCurves& module : group) weights += module.out_features * module.in_features;
  }
  return weights;
}

double weights_of(const std::vector<FusedModules>& model) {
  return static_cast<double>(count_weights(model));
}

/// allocate_bits with what the model weighs.
std::map<std::string, ModuleAllocation> allocate_within(const std::vector<FusedModules>& model,
                                                        BitBudget budget) {
  budget.weights = count_weights(model);
  return allocate_bits(model, budget);
}

/// Every combination of one width for each group.
std::vector<Spent> all_choices(const std::vector<FusedModules>& model) {
  std::vector<Spent> combinations = {{}};
  for (const FusedModules& group : model) {
    std::vector<Spent> longer;
    for (const Spent& before : combinations) {
      for (const ErrorCurve& one : group.front().curves) {
        Spent with = before;
        for (const ModuleCurves& module : group) {
          const ModuleAllocation allocated{one.bits, 0};
          with.bits += bits_in_file(module, allocated, 32);
          with.objective += objective_of(module, allocated);
        }
        longer.push_back(with);
      }
    }
    combinations = std::move(longer);
  }
  return combinations;
}

/// The objective of the last corner of the lower convex hull whose bits fit, and of the best
/// combination that fits.
struct Bounds {
  double hull = 0.0;
  double best = 0.0;
};

Bounds bounds(std::vector<Spent> points, double limit) {
  std::ranges::sort(points, [](const Spent& a, const Spent& b) {
    return a.bits != b.bits ? a.bits < b.bits : a.objective < b.objective;
  });
  std::vector<Spent> hull;
  Bounds result{INFINITY, INFINITY};
  for (const Spent& point : points) {
    if (point.bits <= limit) result.best = std::min(result.best, point.objective);
    if (!hull.empty() && point.objective >= hull.back().objective) continue;
    while (hull.size() > 1) {
      const Spent& a = hull[hull.size() - 2];
      const Spent& b = hull.back();
      // b stays a corner only if it lies below the line from a to the new point by more than
      // rounding.
      const double line =
          a.objective + (point.objective - a.objective) * (b.bits - a.bits) / (point.bits - a.bits);
      if (b.objective < line * (1.0 - 1e-9)) break;
      hull.pop_back();
    }
    hull.push_back(point);
  }
  for (const Spent& corner : hull) {
    if (corner.bits <= limit) result.hull = corner.objective;
  }
  return result;
}

/// Four groups of other shapes and sensitivities; error falls by about 4 per bit, unevenly.
std::vector<FusedModules> bit_model(unsigned seed) {
  auto chance = [state = seed]() mutable {
    state = state * 1664525U + 1013904223U;
    return static_cast<double>(state >> 8) / 16777216.0;
  };
  std::vector<FusedModules> model;
  for (int g = 0; g < 4; ++g) {
    FusedModules group;
    for (int m = 0; m <= g % 2; ++m) {
      std::vector<ErrorCurve> curves;
      double objective = 1e-3 * std::exp2(8.0 * chance());
      for (int bits = 2; bits <= 5; ++bits) {
        curves.push_back(curve(bits, objective));
        objective *= 0.15 + 0.3 * chance();
      }
      group.push_back(module_of(fmt::format("m{}.{}", g, m), 32 << (g % 3), 512 + 256 * g, curves));
    }
    model.push_back(std::move(group));
  }
  return model;
}

TEST(AllocateBits, IsWithinTheBudgetAndAtLeastAsGoodAsTheConvexHull) {
  int optimal = 0;
  int tried = 0;
  for (unsigned seed = 1; seed <= 12; ++seed) {
    const auto model = bit_model(seed);
    const std::vector<Spent> choices = all_choices(model);
    for (const double target : {2.4, 2.75, 3.0, 3.3, 3.7, 4.2, 4.9, 9.0}) {
      const double limit = target * weights_of(model);
      const Spent found = spent(model, allocate_within(model, {.target_bits = target}));
      const Bounds expected = bounds(choices, limit);
      EXPECT_LE(found.bits, limit);
      EXPECT_LE(found.objective, expected.hull * (1 + 1e-12)) << seed << ", " << target;
      EXPECT_GE(found.objective, expected.best * (1 - 1e-12)) << seed << ", " << target;
      optimal += found.objective <= expected.best * (1 + 1e-12) ? 1 : 0;
      ++tried;
    }
  }
  EXPECT_GT(2 * optimal, tried) << "the best possible for most";
}

TEST(AllocateBits, FusedModulesShareTheirBits) {
  // Alone, one would get many bits and the other few.
  const auto sensitive = [](const char* name, double scale) {
    return module_of(name, 64, 1024, {curve(2, scale), curve(3, scale / 4), curve(4, scale / 16)});
  };
  const std::vector<FusedModules> apart = {{sensitive("a", 1.0)}, {sensitive("b", 1e-6)}};
  const std::vector<FusedModules> fused = {{sensitive("a", 1.0), sensitive("b", 1e-6)}};
  const BitBudget budget{.target_bits = 3.4};
  auto allocated = allocate_within(apart, budget);
  EXPECT_EQ(allocated.at("a").bits, 4);
  EXPECT_EQ(allocated.at("b").bits, 2);
  allocated = allocate_within(fused, budget);
  EXPECT_EQ(allocated.at("a").bits, 3);
  EXPECT_EQ(allocated.at("b").bits, 3);
}

/// The same model with errors of any size gets the same bits: only their ratios matter.
TEST(AllocateBits, DoNotDependOnTheScaleOfTheErrors) {
  const auto scaled = [](double scale) {
    auto model = bit_model(3);
    for (FusedModules& group : model) {
      for (ModuleCurves& module : group) {
        for (ErrorCurve& one : module.curves) one.objective *= scale;
      }
    }
    return allocate_within(model, {.target_bits = 3.1});
  };
  const auto usual = scaled(1.0);
  for (const double scale : {0x1p-80, 0x1p-30, 0x1p30, 0x1p80}) EXPECT_EQ(scaled(scale), usual);
}

TEST(AllocateBits, WithoutAnyErrorTheFewestBitsAndMoreIfTheyFit) {
  const std::vector<FusedModules> model = {
      {module_of("a", 64, 1024, {curve(2, 0.0), curve(3, 0.0)})}};
  EXPECT_EQ(allocate_within(model, {.target_bits = 8.0}).at("a").bits, 2);
}

TEST(AllocateBits, OutliersAreBoughtWhereTheyGainMoreThanBits) {
  // a: a quarter of the error lies in few entries; b: spread evenly.
  const std::vector<FusedModules> model = {
      {module_of("a", 64, 1024,
                 {curve(2, 1.0, {{590, 5}, {400, 60000}}), curve(3, 0.9, {{590, 5}, {380, 60000}}),
                  curve(4, 0.89, {{590, 5}, {360, 60000}})})},
      {module_of("b", 64, 1024,
                 {curve(2, 1.0, {{530, 65000}}), curve(3, 0.25, {{522, 65000}}),
                  curve(4, 0.06, {{514, 65000}})})}};
  for (const int entry_bits : {16, 32}) {
    const BitBudget budget{
        .target_bits = 3.4, .table_entry_bits = entry_bits, .outlier_fraction = 0.0045};
    const auto allocated = allocate_within(model, budget);
    EXPECT_LE(spent(model, allocated, entry_bits).bits, 3.4 * weights_of(model));
    EXPECT_EQ(allocated.at("a").outliers, 5);
    EXPECT_LT(allocated.at("a").bits, allocated.at("b").bits);
    EXPECT_LE(allocated.at("b").outliers, 294) << "0.45 % of 65536";
  }
}

TEST(AllocateBits, OutliersStayBelowTheirShareAndTheBudget) {
  for (const double fraction : {0.0, 0.001, 0.0045, 0.02}) {
    std::vector<FusedModules> model = bit_model(5);
    for (FusedModules& group : model) {
      for (ModuleCurves& module : group) {
        for (ErrorCurve& one : module.curves) {
          for (std::size_t bin = 520; bin < 580; ++bin) {
            one.counts[bin] = static_cast<std::int64_t>(3 * (580 - bin));
            one.sums[bin] = 1e-3 * one.objective;
          }
        }
      }
    }
    for (const double target : {2.5, 3.0, 4.0}) {
      const auto allocated =
          allocate_within(model, {.target_bits = target, .outlier_fraction = fraction});
      EXPECT_LE(spent(model, allocated).bits, target * weights_of(model));
      for (const FusedModules& group : model) {
        for (const ModuleCurves& module : group) {
          const auto weights = static_cast<double>(module.out_features * module.in_features);
          EXPECT_LE(static_cast<double>(allocated.at(module.name).outliers), fraction * weights);
        }
      }
    }
  }
}

TEST(AllocateBits, ATargetBelowTheFewestBitsIsRefused) {
  // 2 bits and a table of 4 x 32 bits for 512 weights: 2.25 bits.
  const std::vector<FusedModules> model = {
      {module_of("a", 8, 512, {curve(2, 1.0), curve(3, 0.5)})}};
  EXPECT_EQ(allocate_within(model, {.target_bits = 2.25}).at("a").bits, 2);
  try {
    allocate_within(model, {.target_bits = 2.2});
    ADD_FAILURE() << "nothing was thrown";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("quantize.target_bits"), HasSubstr("2.2 bits"),
                                    HasSubstr("2.250")));
  }
}

}  // namespace
}  // namespace quern::test
