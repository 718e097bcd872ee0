#include "kernels/cpu/codebook_kernels.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

namespace quern {
namespace {

constexpr std::int64_t kWidth = 8;
static_assert(kStatePadding >= 2 * kWidth);

// Eight doubles at once; the compiler splits them where registers are narrower.
using Vector = double __attribute__((vector_size(kWidth * sizeof(double))));

constexpr double kLowest = -std::numeric_limits<double>::infinity();

[[gnu::always_inline]] inline void load(const double* from, Vector& out) {
  std::memcpy(&out, from, sizeof(out));
}

[[gnu::always_inline]] inline void spread(double value, Vector& out) {
  out = Vector{} + value;
}

/// An interval without mass, or only with rounding errors of it, explains nothing.
[[gnu::always_inline]] inline void explained(const Vector& mass, const Vector& moment,
                                             Vector& out) {
  const Vector zero{};
  out = mass > zero ? moment * moment / mass : zero;
}

/// The best split of one state among [low, high], eight candidates at a time.
[[gnu::always_inline]] inline std::int32_t best_split(const SplitLayer& layer, std::int64_t state,
                                                      std::int64_t low, std::int64_t high) {
  const Vector step{0, 1, 2, 3, 4, 5, 6, 7};
  Vector mass, moment, best, best_at, last;
  spread(layer.mass[state], mass);
  spread(layer.moment[state], moment);
  spread(kLowest, best);
  spread(static_cast<double>(low), best_at);
  spread(static_cast<double>(high), last);
  const Vector lowest = best;
  for (std::int64_t i = low; i <= high; i += kWidth) {
    Vector value, other_mass, other_moment, at, gain;
    load(layer.before + i, value);
    load(layer.mass + i, other_mass);
    load(layer.moment + i, other_moment);
    spread(static_cast<double>(i), at);
    at += step;
    explained(mass - other_mass, moment - other_moment, gain);
    value = at <= last ? value + gain : lowest;
    best_at = value > best ? at : best_at;
    best = value > best ? value : best;
  }
  std::size_t winner = 0;
  for (std::size_t lane = 1; lane < kWidth; ++lane) {
    const bool better = best[lane] > best[winner] ||
                        (best[lane] == best[winner] && best_at[lane] < best_at[winner]);
    winner = better ? lane : winner;
  }
  return static_cast<std::int32_t>(best_at[winner]);
}

/// The best splits of eight neighbouring states among [low, high], all states at a time.
[[gnu::always_inline]] inline void best_splits(const SplitLayer& layer, std::int64_t state,
                                               std::int64_t low, std::int64_t high, double* gain,
                                               std::int32_t* split) {
  Vector mass, moment, best, best_at, states{0, 1, 2, 3, 4, 5, 6, 7};
  load(layer.mass + state, mass);
  load(layer.moment + state, moment);
  spread(kLowest, best);
  spread(static_cast<double>(low), best_at);
  states += static_cast<double>(state);
  const Vector lowest = best;
  for (std::int64_t i = low; i <= high; ++i) {
    Vector value, other_mass, other_moment, at, added;
    spread(layer.before[i], value);
    spread(layer.mass[i], other_mass);
    spread(layer.moment[i], other_moment);
    spread(static_cast<double>(i), at);
    explained(mass - other_mass, moment - other_moment, added);
    value = at <= states ? value + added : lowest;
    best_at = value > best ? at : best_at;
    best = value > best ? value : best;
  }
  std::memcpy(gain + state, &best, sizeof(best));
  for (std::size_t lane = 0; lane < kWidth; ++lane) {
    split[state + static_cast<std::int64_t>(lane)] = static_cast<std::int32_t>(best_at[lane]);
  }
}

/// Blocks of kWidth states whose splits lie in [low, high].
struct BlockRange {
  std::int64_t begin;
  std::int64_t end;
  std::int64_t low;
  std::int64_t high;
};

}  // namespace

[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] void solve_layer(
    const SplitLayer& layer, double* gain, std::int32_t* split) {
  std::array<BlockRange, 64> stack;  // halves, so their number is a logarithm
  std::size_t depth = 0;
  stack[depth++] = {0, layer.points / kWidth + 1, 0, layer.points};
  while (depth > 0) {
    BlockRange range = stack[--depth];
    while (range.end - range.begin > 1) {
      const std::int64_t middle = (range.begin + range.end) / 2;
      const std::int64_t state = middle * kWidth;
      const std::int64_t low = std::max<std::int64_t>(range.low, layer.least[state]);
      const std::int64_t at = best_split(layer, state, low, std::min(range.high, state));
      stack[depth++] = {middle, range.end, at, range.high};
      range = {range.begin, middle, range.low, at};
    }
    const std::int64_t state = range.begin * kWidth;
    const std::int64_t low = std::max<std::int64_t>(range.low, layer.least[state]);
    best_splits(layer, state, low, std::min(range.high, state + kWidth - 1), gain, split);
  }
}

[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] std::int32_t solve_last_state(
    const SplitLayer& layer) {
  return best_split(layer, layer.points, layer.least[layer.points], layer.points);
}

[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] void count_bounds_below(
    const float* w, std::int64_t n, const float* bounds, int bound_count, std::uint8_t* codes) {
  constexpr std::int64_t kChunk = 64;
  for (std::int64_t begin = 0; begin < n; begin += kChunk) {
    const std::int64_t count = std::min(kChunk, n - begin);
    std::array<float, kChunk> value{};
    std::array<std::int32_t, kChunk> code{};
    std::copy_n(w + begin, count, value.begin());
    for (int c = 0; c < bound_count; ++c) {
      const float bound = bounds[c];
      for (std::size_t i = 0; i < kChunk; ++i) code[i] += value[i] > bound ? 1 : 0;
    }
    for (std::int64_t i = 0; i < count; ++i) {
      codes[begin + i] = static_cast<std::uint8_t>(code[static_cast<std::size_t>(i)]);
    }
  }
}

[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] bool descend_column(
    const LaneTables& tables, const LaneColumn& column, double* error, double* change,
    std::uint8_t* codes) {
  constexpr std::int64_t kChunk = 16;
  double moved = 0.0;
  for (std::int64_t begin = 0; begin < kLanes; begin += kChunk) {
    double target[kChunk];
    double value[kChunk];
    double code[kChunk] = {};
    for (std::int64_t i = 0; i < kChunk; ++i) {
      const std::int64_t lane = begin + i;
      target[i] =
          column.weight[lane] - error[lane] + column.gradient[lane] * column.inverse_diagonal;
      value[i] = tables.values[lane];
    }
    for (int c = 1; c < tables.count; ++c) {
      const double* bounds = tables.bounds + (c - 1) * kLanes + begin;
      const double* values = tables.values + c * kLanes + begin;
      for (std::int64_t i = 0; i < kChunk; ++i) {
        const bool above = target[i] > bounds[i];
        value[i] = above ? values[i] : value[i];
        code[i] = above ? static_cast<double>(c) : code[i];
      }
    }
    for (std::int64_t i = 0; i < kChunk; ++i) {
      const std::int64_t lane = begin + i;
      const bool fixed = column.fixed[lane] != 0;
      const double next = fixed ? error[lane] : column.weight[lane] - value[i];
      change[lane] = next - error[lane];
      error[lane] = next;
      moved = change[lane] != 0.0 ? 1.0 : moved;
      codes[lane] = fixed ? codes[lane] : static_cast<std::uint8_t>(static_cast<int>(code[i]));
    }
  }
  return moved != 0.0;
}

[[gnu::target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")]] void add_rows_to_bins(
    const double* panel, const std::uint16_t* bins, std::int64_t count, double* sums) {
  for (std::int64_t i = 0; i < count; ++i) {
    double* sum = sums + bins[i] * kBinWidth;
    const double* row = panel + i * kBinWidth;
    for (std::int64_t k = 0; k < kBinWidth; ++k) sum[k] += row[k];
  }
}

}  // namespace quern
