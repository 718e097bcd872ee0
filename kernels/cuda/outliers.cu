#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "kernels/core/error.h"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/histogram.cuh"
#include "kernels/cuda/outliers.h"

namespace quern::gpu {
namespace {

using namespace numeric;
using namespace histogram;

constexpr int kRanks = 4;

/// Where the middle half of the weights of a module begins and ends, and how far a weight lies
/// beyond it. Rounds as the CPU does: no fused multiply-add.
struct Quartiles {
  double low;
  double high;

  __device__ bool is_beyond(double w, double ranges) const {
    const double reach = __dmul_rn(ranges, __dsub_rn(high, low));
    return w < __dsub_rn(low, reach) || w > __dadd_rn(high, reach);
  }
};

/// The ranks on both sides of each quartile, and how far it lies between them.
struct QuartileRanks {
  std::int64_t ranks[kRanks];
  double parts[2];
};

QuartileRanks ranks_of(std::int64_t elems) {
  QuartileRanks out{};
  const auto last = static_cast<double>(elems - 1);
  const double quantiles[] = {0.25, 0.75};
  for (int i = 0; i < 2; ++i) {
    const double place = quantiles[i] * last;
    out.ranks[2 * i] = static_cast<std::int64_t>(std::floor(place));
    out.ranks[2 * i + 1] = static_cast<std::int64_t>(std::ceil(place));
    out.parts[i] = place - std::floor(place);
  }
  return out;
}

/// first_bad: least index of a weight that is not finite.
__global__ void count_high_kernel(const float* weights, std::int64_t elems, Count* bins,
                                  Count* first_bad) {
  Count* const own = own_copy(bins);
  for_elements(elems, [&](std::int64_t i, bool inside) {
    const float w = inside ? weights[i] : 0.0F;
    if (!isfinite(w)) atomicMin(first_bad, static_cast<Count>(i));
    count_bin(own, order_key(w) >> 16, inside);
  });
}

__global__ void count_low_kernel(const float* weights, std::int64_t elems, const Place* places,
                                 Count* bins) {
  for_elements(elems, [&](std::int64_t i, bool inside) {
    const std::uint32_t key = inside ? order_key(weights[i]) : 0;
    for (int r = 0; r < kRanks; ++r) {
      count_bin(bins + r * kHalf, key & 0xFFFFU, inside && key >> 16 == places[r].bin);
    }
  });
}

/// One block per rank.
__global__ void find_high_kernel(const Count* bins, QuartileRanks ranks, Place* places) {
  const Place place = find_place(bins, ranks.ranks[blockIdx.x], false);
  if (threadIdx.x == 0) places[blockIdx.x] = place;
}

__device__ double between(double part, double a, double b) {
  const double range = __dsub_rn(b, a);
  return part < 0.5 ? __dadd_rn(a, __dmul_rn(range, part))
                    : __dsub_rn(b, __dmul_rn(range, __dsub_rn(1.0, part)));
}

/// One block.
__global__ void find_quartiles_kernel(const Count* bins, QuartileRanks ranks, const Place* places,
                                      Quartiles* quartiles) {
  double values[kRanks];
  for (int r = 0; r < kRanks; ++r) {
    const Place place = find_place(bins + r * kHalf, ranks.ranks[r] - places[r].passed, false);
    __syncthreads();  // found is read before the next search sets it
    values[r] = static_cast<double>(value_of_key((places[r].bin << 16) | place.bin));
  }
  if (threadIdx.x != 0) return;
  *quartiles = {between(ranks.parts[0], values[0], values[1]),
                between(ranks.parts[1], values[2], values[3])};
}

/// numpy.quantile(weight, [0.25, 0.75]) with linear interpolation, in float64, on the device.
/// Synchronises. Throws InputError if a weight is not finite.
Tensor find_quartiles(CudaContext& context, const FloatWeights& weights) {
  Memory& memory = context.memory;
  const std::int64_t elems = weights.elems();
  const QuartileRanks ranks = ranks_of(elems);
  Tensor bins = memory.allocate(DType::i64, {kCopies + kRanks, kHalf});
  Tensor found = memory.allocate(DType::u8, {kRanks * static_cast<std::int64_t>(sizeof(Place))});
  Tensor quartiles = memory.allocate(DType::f64, {2});
  Tensor bad = memory.allocate(DType::i64, {1});
  std::array<std::int64_t, 1> first_bad{std::numeric_limits<std::int64_t>::max()};
  memory.clear(bins.view());
  memory.upload(std::as_bytes(std::span(first_bad)), bad.view());
  auto* high = bins.view().as<Count>();
  Count* low = high + kCopies * kHalf;
  auto* places = found.view().as<Place>();
  count_high_kernel<<<grid_for(elems), histogram::kThreads, 0, context.stream>>>(
      weights.data, elems, high, bad.view().as<Count>());
  join_copies(context.stream, high);
  find_high_kernel<<<kRanks, kPlaceThreads, 0, context.stream>>>(high, ranks, places);
  count_low_kernel<<<grid_for(elems), histogram::kThreads, 0, context.stream>>>(weights.data, elems,
                                                                                places, low);
  find_quartiles_kernel<<<1, kPlaceThreads, 0, context.stream>>>(low, ranks, places,
                                                                 quartiles.view().as<Quartiles>());
  check_launch("choose outliers");
  memory.download(bad.view(), std::as_writable_bytes(std::span(first_bad)));
  memory.synchronize();
  if (first_bad[0] < elems) {
    throw InputError("choose outliers: the weight in output row " +
                     std::to_string(first_bad[0] / weights.columns) + ", column " +
                     std::to_string(first_bad[0] % weights.columns) +
                     " is infinite or NaN; expected finite weights; check the checkpoint, or skip "
                     "this module with a rule");
  }
  return quartiles;
}

__global__ void mark_beyond_kernel(const float* weights, std::int64_t elems,
                                   const Quartiles* quartiles, double range, std::uint8_t* mask) {
  const Quartiles own = *quartiles;
  for_elements(elems, [&](std::int64_t i, bool inside) {
    if (inside && own.is_beyond(static_cast<double>(weights[i]), range)) mask[i] = 1;
  });
}

__device__ bool is_beyond_bin(const Quartiles& quartiles, double w, std::int64_t bin) {
  return quartiles.is_beyond(w, static_cast<double>(bin) * CodebookSolver::range_step);
}

__device__ std::int64_t range_bin(const Quartiles& quartiles, double w) {
  constexpr std::int64_t kLast = CodebookSolver::range_bins - 1;
  const double distance = w < quartiles.low ? quartiles.low - w : w - quartiles.high;
  const double ranges = distance / (quartiles.high - quartiles.low);
  const double place = fmin(ranges / CodebookSolver::range_step, static_cast<double>(kLast));
  auto bin = static_cast<std::int64_t>(place);
  // To the rounding of is_beyond, so that the bins say exactly what a rule keeps.
  while (bin > 0 && !is_beyond_bin(quartiles, w, bin)) --bin;
  while (bin < kLast && is_beyond_bin(quartiles, w, bin + 1)) ++bin;
  return bin;
}

__global__ void count_ranges_kernel(const float* weights, std::int64_t elems,
                                    const Quartiles* quartiles, Count* counts) {
  const Quartiles own = *quartiles;
  for_elements(elems, [&](std::int64_t i, bool inside) {
    const double w = inside ? static_cast<double>(weights[i]) : 0.0;
    const bool beyond = inside && is_beyond_bin(own, w, 0);
    count_bin(counts, beyond ? static_cast<unsigned>(range_bin(own, w)) : 0, beyond);
  });
}

}  // namespace

void choose_outliers(CudaContext& context, const FloatWeights& weights, ConstTensorView fisher,
                     const OutlierRule& rule, TensorView mask) {
  context.memory.clear(mask);
  mark_largest(context, {fisher.as<float>(), weights.elems(), rule.sensitive, true},
               mask.as<std::uint8_t>());
  if (!rule.quartile_range) return;
  const Tensor quartiles = find_quartiles(context, weights);
  mark_beyond_kernel<<<grid_for(weights.elems()), histogram::kThreads, 0, context.stream>>>(
      weights.data, weights.elems(), quartiles.view().as<Quartiles>(), *rule.quartile_range,
      mask.as<std::uint8_t>());
  check_launch("choose outliers");
}

void count_outlier_ranges(CudaContext& context, const FloatWeights& weights, TensorView counts) {
  const Tensor quartiles = find_quartiles(context, weights);
  count_ranges_kernel<<<grid_for(weights.elems()), histogram::kThreads, 0, context.stream>>>(
      weights.data, weights.elems(), quartiles.view().as<Quartiles>(), counts.as<Count>());
  check_launch("count ranges");
}

}  // namespace quern::gpu
