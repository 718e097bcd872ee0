#include "kernels/cpu/grid.h"

#include <algorithm>
#include <cmath>

#include "kernels/core/float16.h"
#include "kernels/cpu/convert.h"

namespace quern {
namespace {

using Lanes = std::array<double, kLanes>;

/// Range factors tried: first, first - step, ... Every solve of a group draws other errors, so even
/// factors that hardly differ are worth trying; finer grids clip less.
struct Factors {
  double first;
  double step;
  int count;
};

Factors factors_for(int bits) {
  switch (bits) {
    case 2:
      return {1.1, 0.02, 42};
    case 3:
      return {1.08, 0.02, 32};
    case 4:
      return {1.05, 0.01, 32};
    case 5:
      return {1.04, 0.005, 32};
    case 6:
      return {1.02, 0.0025, 32};
    default:
      return {1.01, 0.00125, 32};
  }
}

/// Nearest float16 values, ties to even, zero replaced by the smallest positive one.
Lanes rounded_to_f16(const Lanes& values) {
  std::array<std::uint16_t, kLanes> bits{};
  convert_elems({reinterpret_cast<const std::byte*>(values.data()), DType::f64, {kLanes}},
                {reinterpret_cast<std::byte*>(bits.data()), DType::f16, {kLanes}}, 0, kLanes);
  Lanes rounded;
  for (std::size_t lane = 0; lane < rounded.size(); ++lane) {
    rounded[lane] = f16_to_float(std::max(bits[lane], std::uint16_t{1}));
  }
  return rounded;
}

/// The ranges of the lanes, and the grids that cover a fraction of them.
class LaneRanges {
 public:
  LaneRanges(const LaneGroup& group, const GridSpec& spec)
      : top_(static_cast<double>((1 << spec.bits) - 1)), symmetric_(spec.symmetric) {
    column_range(group.expected, group.columns, low_.data(), high_.data());
    for (std::size_t lane = 0; lane < low_.size(); ++lane) {
      if (symmetric_) {
        // The sum keeps a NaN of either bound, the maximum alone would not.
        high_[lane] = std::max(-low_[lane], high_[lane]) + 0.0 * high_[lane];
        low_[lane] = -high_[lane];
      }
      if (low_[lane] == 0.0 && high_[lane] == 0.0) {
        low_[lane] = -1.0;
        high_[lane] = 1.0;
      }
    }
  }

  double step(std::size_t lane) const { return (high_[lane] - low_[lane]) / top_; }

  LaneGrid<double> grid(double factor) const {
    LaneGrid<double> grid;
    grid.top = top_;
    Lanes exact;
    for (std::size_t lane = 0; lane < exact.size(); ++lane) exact[lane] = factor * step(lane);
    grid.scale = rounded_to_f16(exact);
    for (std::size_t lane = 0; lane < exact.size(); ++lane) {
      const double zero = std::nearbyint(-factor * low_[lane] / grid.scale[lane]);
      grid.zero[lane] = symmetric_ ? (top_ + 1.0) / 2.0 : std::clamp(zero, 0.0, top_);
    }
    return grid;
  }

 private:
  double top_;
  bool symmetric_;
  Lanes low_{};
  Lanes high_{};
};

/// The group in float32, each lane divided by its step so that no square leaves the range.
LaneTrial make_trial(const LaneGroup& group, const LaneRanges& ranges, float* work) {
  const std::int64_t columns = group.columns;
  const bool solved = group.feedback != nullptr;
  const double* source = solved ? group.targets : group.expected;
  float* targets = work;
  float* weights = targets + columns * kLanes;
  float* errors = weights + columns * kLanes;
  float* importance = errors + columns * kLanes;
  float* feedback = importance + columns;
  Lanes inverse;
  for (std::size_t lane = 0; lane < inverse.size(); ++lane) inverse[lane] = 1.0 / ranges.step(lane);
  double largest = 1.0;
  if (group.importance != nullptr) {
    largest = *std::max_element(group.importance, group.importance + columns);
  }
  for (std::int64_t j = 0; j < columns; ++j) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      const std::int64_t at = j * kLanes + lane;
      const double unit = inverse[static_cast<std::size_t>(lane)];
      targets[at] = static_cast<float>(source[at] * unit);
      if (solved) weights[at] = static_cast<float>(group.weights[at] * unit);
    }
    const bool weighted = group.importance != nullptr && largest > 0.0;
    importance[j] = weighted ? static_cast<float>(group.importance[j] / largest) : 1.0F;
    for (std::int64_t i = 0; solved && i < j; ++i) {
      feedback[j * columns + i] = static_cast<float>(group.feedback[j * group.feedback_stride + i]);
    }
  }
  return {targets, weights, solved ? feedback : nullptr, importance, columns, errors};
}

}  // namespace

std::int64_t grid_work_floats(std::int64_t columns, std::int64_t solved_columns) {
  return columns * (3 * kLanes + 1) + solved_columns * solved_columns;
}

LaneGrid<double> choose_grid(const LaneGroup& group, const GridSpec& spec, float* work) {
  const LaneRanges ranges(group, spec);
  LaneGrid<double> best = ranges.grid(1.0);
  const bool finite = std::all_of(best.scale.begin(), best.scale.end(),
                                  [](double scale) { return std::isfinite(scale); });
  if (spec.scale_search == ScaleSearch::absmax || !finite) return best;

  const LaneTrial trial = make_trial(group, ranges, work);
  std::array<float, kLanes> least;
  least.fill(std::numeric_limits<float>::infinity());
  const Factors factors = factors_for(spec.bits);
  for (int i = 0; i < factors.count; ++i) {
    const LaneGrid<double> grid = ranges.grid(factors.first - i * factors.step);
    LaneGrid<float> relative;
    relative.top = static_cast<float>(grid.top);
    for (std::size_t lane = 0; lane < least.size(); ++lane) {
      relative.scale[lane] = static_cast<float>(grid.scale[lane] / ranges.step(lane));
      relative.zero[lane] = static_cast<float>(grid.zero[lane]);
    }
    std::array<float, kLanes> cost;
    trial_cost(trial, relative, cost.data());
    for (std::size_t lane = 0; lane < least.size(); ++lane) {
      if (!(cost[lane] < least[lane]) || !std::isfinite(grid.scale[lane])) continue;
      least[lane] = cost[lane];
      best.scale[lane] = grid.scale[lane];
      best.zero[lane] = grid.zero[lane];
    }
  }
  return best;
}

}  // namespace quern
