#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>

namespace quern {

/// The smallest p with value <= 2^p; value finite and positive.
inline int power_above(double value) {
  int power = 0;  // value = mantissa * 2^power, mantissa in [0.5, 1)
  return std::frexp(value, &power) == 0.5 ? power - 1 : power;
}

/// out[i] = exponent_of(values[i]) where the value is positive and finite; the others get the
/// smallest of those, and all get 0 where there is none.
template <typename ExponentOf>
void fill_exponents(const double* values, std::int64_t n, ExponentOf exponent_of,
                    std::int32_t* out) {
  std::optional<std::int32_t> smallest;
  const auto usable = [](double value) { return value > 0.0 && std::isfinite(value); };
  for (std::int64_t i = 0; i < n; ++i) {
    if (!usable(values[i])) continue;
    out[i] = exponent_of(values[i]);
    smallest = std::min(out[i], smallest.value_or(out[i]));
  }
  for (std::int64_t i = 0; i < n; ++i) {
    if (!usable(values[i])) out[i] = smallest.value_or(0);
  }
}

}  // namespace quern
