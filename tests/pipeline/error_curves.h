#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "pipeline/allocation.h"

namespace quern::test {

inline constexpr auto kGainBins = static_cast<std::size_t>(CodebookSolver::gain_bins);

/// Gains by bin: how many, and their sum, which is that of gains at the bin's lower edge.
struct Gains {
  std::size_t bin;
  std::int64_t count;
};

inline double edge_of(std::size_t bin) {
  return std::exp2((static_cast<double>(bin) - CodebookSolver::gain_offset) / 4.0);
}

inline ErrorCurve curve(int bits, double objective, const std::vector<Gains>& gains = {}) {
  ErrorCurve result{bits, objective, std::vector<std::int64_t>(kGainBins),
                    std::vector<double>(kGainBins)};
  for (const auto& [bin, count] : gains) {
    result.counts[bin] = count;
    result.sums[bin] = static_cast<double>(count) * edge_of(bin);
  }
  return result;
}

inline ModuleCurves module_of(const std::string& name, std::int64_t out, std::int64_t in,
                              std::vector<ErrorCurve> curves) {
  return {name, out, in, std::move(curves)};
}

}  // namespace quern::test
