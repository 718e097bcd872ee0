#pragma once

#include <array>
#include <cstdint>

namespace quern {

/// Rows of a module never meet in GPTQ, so kLanes of them are solved side by side: a "column" here
/// is kLanes consecutive values, one for each row, and every loop over lanes is a vector loop.
inline constexpr std::int64_t kLanes = 64;

/// The grid of each lane for one group: value = scale * (code - zero), code in [0, top].
template <typename T>
struct alignas(64) LaneGrid {
  std::array<T, kLanes> scale{};
  std::array<T, kLanes> zero{};
  T top = 0;
};

/// A group of columns as the scale search sees it.
struct LaneTrial {
  const float* targets = nullptr;     ///< [columns, kLanes]
  const float* weights = nullptr;     ///< [columns, kLanes]; used with feedback only
  const float* feedback = nullptr;    ///< [columns, columns], row j = S_ij over i; or none
  const float* importance = nullptr;  ///< [columns]
  std::int64_t columns = 0;
  float* errors = nullptr;  ///< [columns, kLanes] of working space
};

/// column += sum over i < count of factors[i] * errors[i].
void add_feedback(const double* factors, std::int64_t count, const double* errors, double* column);

/// codes = clamp(round(target / scale) + zero, 0, top) with ties to even; error = weight - value.
void round_column(const double* target, const double* weight, const LaneGrid<double>& grid,
                  double* error, std::uint8_t* codes);

/// cost = sum over columns of importance * (target - value)^2; with feedback, each column's target
/// first takes up the errors of the columns before it, as in the solve itself.
void trial_cost(const LaneTrial& trial, const LaneGrid<float>& grid, float* cost);

/// low = min(0, least), high = max(0, largest) of each lane; NaN in high if a value is not finite.
void column_range(const double* targets, std::int64_t columns, double* low, double* high);

}  // namespace quern
