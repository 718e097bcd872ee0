#include "tests/pipeline/model/deviation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/support/floats.h"

namespace quern::test {

Deviation deviation(std::span<const float> found, std::span<const float> expected) {
  EXPECT_EQ(found.size(), expected.size());
  if (found.size() != expected.size()) return {HUGE_VAL, HUGE_VAL};
  double top = 0.0;
  double worst = 0.0;
  double squares = 0.0;
  double energy = 0.0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double want = expected[i];
    const double difference = static_cast<double>(found[i]) - want;
    if (!std::isfinite(difference)) return {HUGE_VAL, HUGE_VAL};
    top = std::max(top, std::abs(want));
    worst = std::max(worst, std::abs(difference));
    squares += difference * difference;
    energy += want * want;
  }
  return {worst / top, std::sqrt(squares / energy)};
}

Deviation worse(const Deviation& a, const Deviation& b) {
  return {std::max(a.largest, b.largest), std::max(a.rms, b.rms)};
}

double depth_rounding(DType activation, std::int64_t layers) {
  return rounding_of(activation) * std::sqrt(static_cast<double>(layers));
}

}  // namespace quern::test
