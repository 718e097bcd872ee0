#include "tests/kernels/cpu/finite_difference.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

namespace quern::test {
namespace {

constexpr std::size_t kSample = 24;
constexpr int kDirections = 3;

/// Derivative along the direction: four points, error of order step^4.
double slope(const Loss& loss, const Values& x, const Values& direction) {
  constexpr double kStep = 1e-3;
  const auto moved = [&](double steps) {
    Values at = x;
    for (std::size_t i = 0; i < at.size(); ++i) at[i] += steps * kStep * direction[i];
    return loss(at);
  };
  return (8.0 * (moved(1.0) - moved(-1.0)) - (moved(2.0) - moved(-2.0))) / (12.0 * kStep);
}

Values values_of(ConstTensorView tensor) {
  if (tensor.dtype == DType::f64) {
    const auto* values = tensor.as<double>();
    return {values, values + tensor.elems()};
  }
  EXPECT_EQ(tensor.dtype, DType::f32);
  const auto* values = tensor.as<float>();
  return {values, values + tensor.elems()};
}

std::vector<std::size_t> sampled_elements(std::size_t size, std::mt19937& engine) {
  std::vector<std::size_t> elements(size);
  std::iota(elements.begin(), elements.end(), std::size_t{0});
  if (size <= kSample) return elements;
  std::vector<std::size_t> chosen = {0, size - 1};
  std::uniform_int_distribution<std::size_t> any(0, size - 1);
  while (chosen.size() < kSample) chosen.push_back(any(engine));
  return chosen;
}

}  // namespace

double weighted_sum(const Values& dy, const Values& y) {
  return std::inner_product(dy.begin(), dy.end(), y.begin(), 0.0);
}

void expect_gradient(const Loss& loss, const Values& x, ConstTensorView gradient, double relative) {
  const Values got = values_of(gradient);
  ASSERT_EQ(got.size(), x.size());
  double largest = 0.0;
  for (const double value : got) {
    ASSERT_TRUE(std::isfinite(value));
    largest = std::max(largest, std::fabs(value));
  }
  std::mt19937 engine(11);
  for (const std::size_t element : sampled_elements(x.size(), engine)) {
    Values direction(x.size(), 0.0);
    direction[element] = 1.0;
    ASSERT_NEAR(got[element], slope(loss, x, direction), relative * largest)
        << "element " << element << " of " << x.size();
  }
  std::normal_distribution<double> normal;
  for (int round = 0; round < kDirections; ++round) {
    Values direction(x.size());
    for (double& value : direction) value = normal(engine);
    const double length = std::sqrt(weighted_sum(direction, direction));
    ASSERT_NEAR(weighted_sum(got, direction), slope(loss, x, direction),
                relative * largest * length)
        << "direction " << round;
  }
}

}  // namespace quern::test
