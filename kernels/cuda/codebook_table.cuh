#pragma once

#include "kernels/cuda/codebook_table.h"
#include "kernels/cuda/numeric.cuh"

/// Tables of one row, by a thread block that has the row for itself.
namespace quern::gpu::codebook {

inline constexpr int kMaxCount = 256;

/// Working space of a block.
struct SharedTable {
  double values[kMaxCount];
  float stored[kMaxCount];
  float table[kMaxCount];
  std::uint8_t places[kMaxCount];
};

/// How centroids become a table; with outliers the one nearest to 0 gets 8 significant bits.
struct TableFormat {
  bool half;
  int count;
  bool has_outliers;
  float largest_outlier;
};

__device__ inline float infinity() {
  return __int_as_float(0x7F800000);
}

/// Nearest finite value of the type.
__device__ inline float rounded(double value, bool half) {
  const double limit = half ? 65504.0 : 0x1.FFFFFEp127;
  const auto single = static_cast<float>(fmin(fmax(value, -limit), limit));
  const float stored = half ? __half2float(__float2half_rn(single)) : single;
  return __fadd_rn(stored, 0.0F);  // -0 to +0
}

/// Nearest value of 8 significant bits, or the next smaller one at the end of the range.
__device__ inline float shortened(float value, bool half) {
  const float near = __bfloat162float(__float2bfloat16_rn(value));
  const float stored = rounded(static_cast<double>(near), half);
  if (stored == near || (half && fabsf(near) < 1.0F)) return stored;
  return copysignf(half ? 65280.0F : 0x1.FEp127F, value);
}

__device__ inline int nearest_to_zero(const float* values, int count) {
  int best = 0;
  for (int i = 1; i < count; ++i) {
    const float a = fabsf(values[i]);
    const float b = fabsf(values[best]);
    if (a < b || (a == b && values[i] < values[best])) best = i;
  }
  return best;
}

/// shared.values [used] to shared.table and shared.places. One thread.
__device__ inline void finish_table(SharedTable& shared, int used, const TableFormat& format) {
  for (int i = 0; i < used; ++i) shared.stored[i] = rounded(shared.values[i], format.half);
  const float least = format.largest_outlier * 0x1p-18F;
  while (format.has_outliers && used > 0) {
    // Another one may be nearest once this one is rounded.
    float& nearest = shared.stored[nearest_to_zero(shared.stored, used)];
    const float next = fabsf(nearest) < least ? 0.0F : shortened(nearest, format.half);
    if (next == nearest) break;
    nearest = next;
  }
  int distinct = 0;
  for (int i = 0; i < used; ++i) {
    const float value = shared.stored[i];
    int at = distinct;
    while (at > 0 && shared.table[at - 1] > value) --at;
    if (at > 0 && shared.table[at - 1] == value) continue;
    for (int k = distinct; k > at; --k) shared.table[k] = shared.table[k - 1];
    shared.table[at] = value;
    ++distinct;
  }
  for (int i = 0; i < used; ++i) {
    int place = 0;
    while (shared.table[place] < shared.stored[i]) ++place;
    shared.places[i] = static_cast<std::uint8_t>(place);
  }
  const float last = distinct == 0 ? 0.0F : shared.table[distinct - 1];
  for (int c = distinct; c < format.count; ++c) shared.table[c] = last;
}

/// The float v with centroid + v == w in float arithmetic. False if there is none and it must be
/// exact; else the nearest.
__device__ inline bool outlier_value(float w, float centroid, bool exactly, float& value) {
  value = static_cast<float>(static_cast<double>(w) - static_cast<double>(centroid));
  if (__fadd_rn(centroid, value) == w) return true;
  const float candidates[] = {nextafterf(value, -infinity()), nextafterf(value, infinity())};
  for (const float candidate : candidates) {
    if (__fadd_rn(centroid, candidate) != w) continue;
    value = candidate;
    return true;
  }
  return !exactly;
}

struct LargerFloat {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

/// The table's format for the outliers that the row has now; all threads get it.
__device__ inline TableFormat format_of_row(const StateView& state, const float* w,
                                            std::int64_t row) {
  const std::uint8_t* mask = state.mask + row * state.columns;
  float largest = -1.0F;
  for (std::int64_t k = threadIdx.x; k < state.columns; k += blockDim.x) {
    if (mask[k] != 0) largest = fmaxf(largest, fabsf(w[k]));
  }
  largest = reduce_block(largest, LargerFloat{});
  return {state.half, state.count, largest >= 0.0F, fmaxf(largest, 0.0F)};
}

/// Masked weights that the table cannot express lose their mask and keep their code; the others
/// get the code nearest to 0.
__device__ inline void settle_outliers(const StateView& state, const float* table, const float* w,
                                       std::int64_t row, bool exactly) {
  const int zero = nearest_to_zero(table, state.count);
  std::uint8_t* mask = state.mask + row * state.columns;
  std::uint8_t* codes = state.codes + row * state.columns;
  for (std::int64_t k = threadIdx.x; k < state.columns; k += blockDim.x) {
    if (mask[k] == 0) continue;
    float value = 0.0F;
    if (outlier_value(w[k], table[zero], exactly, value)) {
      codes[k] = static_cast<std::uint8_t>(zero);
    } else {
      mask[k] = 0;
    }
  }
}

/// How many of the ascending bounds lie below w.
template <typename T>
__device__ int count_below(const T* bounds, int count, T w) {
  int low = 0;
  int high = count;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (w > bounds[middle]) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

/// bounds[c] in float: w > bounds[c] where the centroid after c is nearer; infinite where it
/// repeats. All threads, count - 1 bounds.
__device__ inline void fill_bounds(const float* table, int count, float* bounds) {
  for (int c = static_cast<int>(threadIdx.x); c + 1 < count; c += static_cast<int>(blockDim.x)) {
    const double middle = 0.5 * (static_cast<double>(table[c]) + static_cast<double>(table[c + 1]));
    auto bound = static_cast<float>(middle);
    if (static_cast<double>(bound) > middle) bound = nextafterf(bound, -infinity());
    bounds[c] = table[c] == table[c + 1] ? infinity() : bound;
  }
}

}  // namespace quern::gpu::codebook
