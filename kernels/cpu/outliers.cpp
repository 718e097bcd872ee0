#include "kernels/cpu/outliers.h"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <vector>

#include "kernels/core/error.h"
#include "kernels/cpu/convert.h"

namespace quern {
namespace {

constexpr std::size_t kHalf = 65536;       // values of half a key
constexpr std::int64_t kTile = 64 * 1024;  // elements one thread takes at a time

using Histogram = std::vector<std::int64_t>;

/// Sums a histogram of `size` bins over tiles of elements; count(begin, elems, bins) adds a tile.
template <typename Count>
Histogram count_in_tiles(std::int64_t elems, std::size_t size, int threads, Count count) {
  std::vector<Histogram> parts(static_cast<std::size_t>(threads), Histogram(size));
  const std::int64_t tiles = (elems + kTile - 1) / kTile;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    const std::int64_t begin = tile * kTile;
    count(begin, std::min(kTile, elems - begin),
          parts[static_cast<std::size_t>(omp_get_thread_num())].data());
  }
  for (std::size_t part = 1; part < parts.size(); ++part) {
    for (std::size_t bin = 0; bin < size; ++bin) parts[0][bin] += parts[part][bin];
  }
  return std::move(parts[0]);
}

/// The bin that holds place `rank` of the elements counted from the first bin, or from the last,
/// and how many lie in the bins passed.
struct Place {
  std::size_t bin = 0;
  std::int64_t passed = 0;
};

Place place_from_below(const std::int64_t* bins, std::int64_t rank) {
  Place place;
  while (place.bin + 1 < kHalf && place.passed + bins[place.bin] <= rank) {
    place.passed += bins[place.bin++];
  }
  return place;
}

Place place_from_above(const std::int64_t* bins, std::int64_t rank) {
  Place place{kHalf - 1, 0};
  while (place.bin > 0 && place.passed + bins[place.bin] <= rank) {
    place.passed += bins[place.bin--];
  }
  return place;
}

std::uint32_t high_half(std::uint32_t key) {
  return key >> 16;
}

std::uint32_t low_half(std::uint32_t key) {
  return key & 0xFFFFU;
}

/// Unsigned keys in the order of the floats, and back.
std::uint32_t ordered_key(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return bits ^ ((bits & 0x80000000U) != 0 ? 0xFFFFFFFFU : 0x80000000U);
}

float value_of_key(std::uint32_t key) {
  return std::bit_cast<float>(key ^ ((key & 0x80000000U) != 0 ? 0x80000000U : 0xFFFFFFFFU));
}

void check_finite(const float* values, std::int64_t count, std::int64_t begin,
                  std::vector<std::int64_t>& first_bad) {
  auto& bad = first_bad[static_cast<std::size_t>(begin / kTile)];
  for (std::int64_t i = 0; i < count && bad < 0; ++i) {
    if (!std::isfinite(values[i])) bad = begin + i;
  }
}

void refuse_infinite(const std::vector<std::int64_t>& first_bad, const Shape& shape) {
  for (const std::int64_t at : first_bad) {
    if (at < 0) continue;
    throw InputError(fmt::format(
        "choose outliers: the weight in output row {}, column {} is infinite or NaN; expected "
        "finite weights; check the checkpoint, or skip this module with a rule",
        at / shape[1], at % shape[1]));
  }
}

/// The weights of the given ranks in ascending order of all weights.
std::array<double, 4> order_statistics(ConstTensorView weight, std::array<std::int64_t, 4> ranks,
                                       int threads) {
  const std::int64_t elems = weight.elems();
  std::vector<std::int64_t> first_bad(static_cast<std::size_t>((elems + kTile - 1) / kTile), -1);
  std::vector<std::vector<float>> buffers(static_cast<std::size_t>(threads),
                                          std::vector<float>(kTile));
  const auto load = [&](std::int64_t begin, std::int64_t count) {
    float* values = buffers[static_cast<std::size_t>(omp_get_thread_num())].data();
    load_elems(weight, begin, count, values);
    return values;
  };
  const Histogram high =
      count_in_tiles(elems, kHalf, threads, [&](auto begin, auto count, std::int64_t* bins) {
        const float* values = load(begin, count);
        check_finite(values, count, begin, first_bad);
        for (std::int64_t i = 0; i < count; ++i) ++bins[high_half(ordered_key(values[i]))];
      });
  refuse_infinite(first_bad, weight.shape);
  std::array<Place, 4> places;
  std::transform(ranks.begin(), ranks.end(), places.begin(),
                 [&](std::int64_t rank) { return place_from_below(high.data(), rank); });
  const Histogram low =
      count_in_tiles(elems, 4 * kHalf, threads, [&](auto begin, auto count, std::int64_t* bins) {
        const float* values = load(begin, count);
        for (std::int64_t i = 0; i < count; ++i) {
          const std::uint32_t key = ordered_key(values[i]);
          for (std::size_t r = 0; r < 4; ++r) {
            if (high_half(key) == places[r].bin) ++bins[r * kHalf + low_half(key)];
          }
        }
      });
  std::array<double, 4> values;
  for (std::size_t r = 0; r < 4; ++r) {
    const Place place = place_from_below(low.data() + r * kHalf, ranks[r] - places[r].passed);
    values[r] = value_of_key(static_cast<std::uint32_t>((places[r].bin << 16) | place.bin));
  }
  return values;
}

/// The bits of floats >= 0, which have the order of the floats; -0 is 0.
std::uint32_t positive_key(float value) {
  return std::bit_cast<std::uint32_t>(value) & 0x7FFFFFFFU;
}

/// Ties at the limit, tile by tile, get what is left of the count.
void mark_from(const LargestOf& input, std::uint32_t limit, std::int64_t ties, std::uint8_t* mask,
               int threads) {
  const std::int64_t tiles = (input.elems + kTile - 1) / kTile;
  std::vector<std::int64_t> left(static_cast<std::size_t>(tiles) + 1);
  const auto key = [&](std::int64_t i) { return positive_key(input.values[i]); };
#pragma omp parallel for schedule(static) num_threads(threads)
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    const std::int64_t end = std::min((tile + 1) * kTile, input.elems);
    std::int64_t equal = 0;
    for (std::int64_t i = tile * kTile; i < end; ++i) equal += key(i) == limit ? 1 : 0;
    left[static_cast<std::size_t>(tile) + 1] = equal;
  }
  left[0] = ties;
  for (std::size_t tile = 1; tile < left.size(); ++tile) left[tile] = left[tile - 1] - left[tile];
#pragma omp parallel for schedule(static) num_threads(threads)
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    const std::int64_t end = std::min((tile + 1) * kTile, input.elems);
    std::int64_t rest = left[static_cast<std::size_t>(tile)];
    for (std::int64_t i = tile * kTile; i < end; ++i) {
      if (key(i) > limit || (key(i) == limit && rest-- > 0)) mask[i] = 1;
    }
  }
}

}  // namespace

void mark_largest(const LargestOf& input, std::uint8_t* mask, int threads) {
  const std::int64_t wanted = std::min(input.count, input.elems);
  if (wanted <= 0) return;
  const auto key = [&](std::int64_t i) { return positive_key(input.values[i]); };
  const Histogram high =
      count_in_tiles(input.elems, kHalf, threads, [&](auto begin, auto count, std::int64_t* bins) {
        for (std::int64_t i = begin; i < begin + count; ++i) ++bins[high_half(key(i))];
      });
  const Place upper = place_from_above(high.data(), wanted - 1);
  const Histogram low =
      count_in_tiles(input.elems, kHalf, threads, [&](auto begin, auto count, std::int64_t* bins) {
        for (std::int64_t i = begin; i < begin + count; ++i) {
          if (high_half(key(i)) == upper.bin) ++bins[low_half(key(i))];
        }
      });
  const Place lower = place_from_above(low.data(), wanted - 1 - upper.passed);
  const auto limit = static_cast<std::uint32_t>((upper.bin << 16) | lower.bin);
  const bool marks_ties = limit > 0 || input.with_zeros;
  mark_from(input, limit, marks_ties ? wanted - upper.passed - lower.passed : 0, mask, threads);
}

Quartiles Quartiles::of(ConstTensorView weight, int threads) {
  const auto last = static_cast<double>(weight.elems() - 1);
  const auto below = [&](double q) { return static_cast<std::int64_t>(std::floor(q * last)); };
  const auto above = [&](double q) { return static_cast<std::int64_t>(std::ceil(q * last)); };
  const auto at =
      order_statistics(weight, {below(0.25), above(0.25), below(0.75), above(0.75)}, threads);
  const auto between = [&](double q, double a, double b) {
    const double part = q * last - std::floor(q * last);
    return part < 0.5 ? a + (b - a) * part : b - (b - a) * (1.0 - part);
  };
  return {between(0.25, at[0], at[1]), between(0.75, at[2], at[3])};
}

void choose_outliers(ConstTensorView weight, ConstTensorView fisher, const OutlierRule& rule,
                     TensorView mask, int threads) {
  const std::int64_t elems = weight.elems();
  auto* out = mask.as<std::uint8_t>();
  std::fill_n(out, elems, std::uint8_t{0});
  mark_largest({fisher.as<float>(), elems, rule.sensitive, true}, out, threads);
  if (!rule.quartile_range) return;
  const Quartiles quartiles = Quartiles::of(weight, threads);
  const std::int64_t columns = weight.shape[1];
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> row(static_cast<std::size_t>(columns));
#pragma omp for schedule(static)
    for (std::int64_t n = 0; n < weight.shape[0]; ++n) {
      load_elems(weight, n * columns, columns, row.data());
      for (std::size_t k = 0; k < row.size(); ++k) {
        if (quartiles.is_beyond(row[k], *rule.quartile_range)) {
          out[n * columns + static_cast<std::int64_t>(k)] = 1;
        }
      }
    }
  }
}

void count_outlier_ranges(ConstTensorView weight, TensorView counts, int threads) {
  const Quartiles quartiles = Quartiles::of(weight, threads);
  constexpr std::int64_t kLast = CodebookSolver::range_bins - 1;
  const auto beyond = [&](double w, std::int64_t bin) {
    return quartiles.is_beyond(w, static_cast<double>(bin) * CodebookSolver::range_step);
  };
  const auto bin_of = [&](double w) {
    const double distance = w < quartiles.low ? quartiles.low - w : w - quartiles.high;
    const double ranges = distance / (quartiles.high - quartiles.low);
    const double place = std::min(ranges / CodebookSolver::range_step, static_cast<double>(kLast));
    auto bin = static_cast<std::int64_t>(place);
    // To the rounding of is_beyond, so that the bins say exactly what a rule keeps.
    while (bin > 0 && !beyond(w, bin)) --bin;
    while (bin < kLast && beyond(w, bin + 1)) ++bin;
    return bin;
  };
  std::vector<std::vector<float>> buffers(static_cast<std::size_t>(threads),
                                          std::vector<float>(kTile));
  const Histogram bins = count_in_tiles(
      weight.elems(), CodebookSolver::range_bins, threads,
      [&](auto begin, auto count, std::int64_t* out) {
        float* values = buffers[static_cast<std::size_t>(omp_get_thread_num())].data();
        load_elems(weight, begin, count, values);
        for (std::int64_t i = 0; i < count; ++i) {
          if (beyond(values[i], 0)) ++out[bin_of(values[i])];
        }
      });
  for (std::size_t bin = 0; bin < bins.size(); ++bin) {
    counts.as<std::int64_t>()[bin] += bins[bin];
  }
}

}  // namespace quern
