#include <algorithm>

#include "kernels/cuda/errors.h"
#include "kernels/cuda/kmeans_row.h"
#include "kernels/cuda/numeric.cuh"
#include "kernels/cuda/order_key.cuh"

namespace quern::gpu {
namespace {

using namespace numeric;

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarp;
constexpr int kMaxIntervals = 256;
constexpr int kLeastLanes = 4;      // that look for the split of one state
constexpr int kStaticBytes = 4096;  // of shared memory, besides the arrays, at most
constexpr std::int64_t kWorkBytes = std::int64_t{1} << 30;
constexpr int kArrays = 4;
constexpr int kStateBytes = kArrays * static_cast<int>(sizeof(double));

/// What a block needs of global memory for one row, and where it lies.
struct WorkLayout {
  std::int64_t columns;
  int intervals;

  __host__ __device__ std::int64_t states() const { return columns + 1; }
  __host__ __device__ std::int64_t splits_at() const {
    return (columns + kArrays * states()) * static_cast<std::int64_t>(sizeof(double));
  }
  __host__ __device__ std::int64_t values_at() const {
    return splits_at() + states() * (intervals - 2) * static_cast<std::int64_t>(sizeof(int));
  }
  __host__ __device__ std::int64_t bytes() const {
    return (values_at() + columns * static_cast<std::int64_t>(sizeof(float)) + 255) / 256 * 256;
  }
};

/// Points of one row, ascending, and the arrays over its states: state j covers the first j.
struct RowWork {
  double* weights;  ///< [columns]
  float* values;    ///< [columns]
  int* splits;      ///< [intervals - 2, states]: of layers 1 and up
  double* mass;     ///< prefix sums of F
  double* moment;   ///< prefix sums of F x, around the mean
  double* before;   ///< explained with one interval fewer
  double* gain;
  std::int64_t stride;  ///< states
};

__device__ RowWork work_of(std::byte* base, const WorkLayout& layout, double* arrays,
                           std::int64_t states) {
  auto* doubles = reinterpret_cast<double*>(base);
  double* first = arrays != nullptr ? arrays : doubles + layout.columns;
  return {doubles,
          reinterpret_cast<float*>(base + layout.values_at()),
          reinterpret_cast<int*>(base + layout.splits_at()),
          first,
          first + states,
          first + 2 * states,
          first + 3 * states,
          layout.states()};
}

/// Points from sorted weights: the first of equal ones sums their F in order. Returns their number.
__device__ int merge_points(const SortedRows& in, std::int64_t row, double* weights,
                            float* values) {
  const std::uint32_t* keys = in.keys + row * in.columns;
  const float* importance = in.importance + row * in.columns;
  const int count = in.counts[row];
  int merged = 0;
  for (int begin = 0; begin < count; begin += kThreads) {
    const int i = begin + static_cast<int>(threadIdx.x);
    const bool first = i < count && (i == 0 || keys[i] != keys[i - 1]);
    int total = 0;
    const int at = merged + block_scan(first ? 1 : 0, total);
    if (first) {
      double sum = 0.0;
      for (int j = i; j < count && keys[j] == keys[i]; ++j) {
        sum += static_cast<double>(importance[j]);
      }
      weights[at] = sum;
      values[at] = value_of_key(keys[i]);
    }
    merged += total;
  }
  __syncthreads();
  return merged;
}

/// Prefix sums; each thread has a run of points. Around the mean the explained part is small
/// against nothing it is compared with.
__device__ void sum_prefixes(const RowWork& work, int points) {
  const int run = (points + kThreads - 1) / kThreads;
  const int begin = min(points, static_cast<int>(threadIdx.x) * run);
  const int end = min(points, begin + run);
  double mass = 0.0;
  double moment = 0.0;
  for (int i = begin; i < end; ++i) {
    mass += work.weights[i];
    moment += work.weights[i] * static_cast<double>(work.values[i]);
  }
  const double centre = block_sum(moment) / block_sum(mass);
  moment = 0.0;
  for (int i = begin; i < end; ++i) {
    moment += work.weights[i] * (static_cast<double>(work.values[i]) - centre);
  }
  double all_mass = 0.0;
  double all_moment = 0.0;
  mass = block_scan(mass, all_mass);
  moment = block_scan(moment, all_moment);
  for (int i = begin; i < end; ++i) {
    work.mass[i] = mass;
    work.moment[i] = moment;
    mass += work.weights[i];
    moment += work.weights[i] * (static_cast<double>(work.values[i]) - centre);
  }
  if (threadIdx.x == 0) {
    work.mass[points] = all_mass;
    work.moment[points] = all_moment;
  }
  __syncthreads();
}

/// 1 / x of a positive normal x to the last bit or two, without the branches of a division.
__device__ double reciprocal(double x) {
  double guess;
  asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(guess) : "d"(x));
  guess = fma(guess, fma(-x, guess, 1.0), guess);
  return fma(guess, fma(-x, guess, 1.0), guess);
}

/// An interval without mass, or only with rounding errors of it, explains nothing.
__device__ double explained(double mass, double moment) {
  return mass > 0.0 ? moment * moment * reciprocal(mass) : 0.0;
}

struct Split {
  double value;
  int at;
};

__device__ Split better_split(const Split& a, const Split& b) {
  return b.value > a.value || (b.value == a.value && b.at < a.at) ? b : a;
}

/// The best split of a state among low, low + step, ... <= high.
__device__ Split scan_splits(const RowWork& work, int state, int low, int high, int step) {
  const double mass = work.mass[state];
  const double moment = work.moment[state];
  Split best{-__longlong_as_double(0x7FF0000000000000), high};
#pragma unroll 4
  for (int i = low; i <= high; i += step) {
    const double value = work.before[i] + explained(mass - work.mass[i], moment - work.moment[i]);
    if (value > best.value) best = {value, i};
  }
  return best;
}

/// Over `lanes` neighbouring lanes, a power of two up to 32.
__device__ Split join_splits(Split best, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) {
    const Split other{__shfl_xor_sync(kWholeWarp, best.value, offset),
                      __shfl_xor_sync(kWholeWarp, best.at, offset)};
    best = better_split(best, other);
  }
  return best;
}

/// Where to look for the split of a state between two whose splits are known.
struct SplitRange {
  int low;
  int high;
};

__device__ SplitRange range_of(int state, int step, int points, const int* least,
                               const int* splits) {
  const int low = max(splits[state - step], least == nullptr ? 0 : least[state]);
  const int high = min(state, state + step <= points ? splits[state + step] : points);
  return {low, max(low, high)};  // rounding may turn two equal splits round
}

/// States of one step, each by a group of warps; at most kWarps of them. All threads call.
__device__ void solve_few(const RowWork& work, int points, int step, const int* least,
                          int* splits) {
  __shared__ Split of_warp[kWarps];
  const int states = (points - step) / (2 * step) + 1;
  int warps = kWarps;  // of a state
  while (warps > 1 && states * warps > kWarps) warps /= 2;
  const int index = static_cast<int>(threadIdx.x) / (warps * kWarp);
  const int state = step * (2 * index + 1);
  if (index < states) {
    const SplitRange range = range_of(state, step, points, least, splits);
    const int threads = warps * kWarp;
    const int own = range.low + static_cast<int>(threadIdx.x) % threads;
    const Split best = join_splits(scan_splits(work, state, own, range.high, threads), kWarp);
    if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = best;
  }
  __syncthreads();
  if (index < states && threadIdx.x % (warps * kWarp) == 0) {
    Split best = of_warp[index * warps];
    for (int warp = 1; warp < warps; ++warp) {
      best = better_split(best, of_warp[index * warps + warp]);
    }
    work.gain[state] = best.value;
    splits[state] = best.at;
  }
}

/// States of one step, each by some lanes of a warp. All threads call.
__device__ void solve_many(const RowWork& work, int points, int step, const int* least,
                           int* splits) {
  const int states = (points - step) / (2 * step) + 1;
  int lanes = kWarp;
  while (lanes > kLeastLanes && states * lanes > kThreads) lanes /= 2;
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  for (int first = 0; first < states; first += kThreads / lanes) {
    const int index = first + static_cast<int>(threadIdx.x) / lanes;
    const bool active = index < states;
    const int state = active ? step * (2 * index + 1) : 0;
    SplitRange range{0, -1};
    if (active) range = range_of(state, step, points, least, splits);
    const Split best =
        join_splits(scan_splits(work, state, range.low + lane, range.high, lanes), lanes);
    if (active && lane == 0) {
      work.gain[state] = best.value;
      splits[state] = best.at;
    }
  }
}

/// gain and splits of all states of a layer; the splits of the layer before are lower bounds.
/// States at odd multiples of ever smaller steps lie between two whose splits are known.
__device__ void solve_layer(const RowWork& work, int points, const int* least, int* splits) {
  int step = 1;
  while (step * 2 <= points) step *= 2;
  if (threadIdx.x == 0) {
    work.gain[0] = 0.0;
    splits[0] = 0;
  }
  __syncthreads();
  for (; step > 0; step /= 2) {
    const bool few = (points - step) / (2 * step) + 1 <= kWarps;
    if (few) {
      solve_few(work, points, step, least, splits);
    } else {
      solve_many(work, points, step, least, splits);
    }
    __syncthreads();
  }
}

/// The best split of the last state; all threads get it.
__device__ int solve_last_state(const RowWork& work, int points, const int* least) {
  __shared__ Split of_warp[kWarps];
  const int low = least == nullptr ? 0 : least[points];
  const Split own = join_splits(
      scan_splits(work, points, low + static_cast<int>(threadIdx.x), points, kThreads), kWarp);
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = own;
  __syncthreads();
  Split best = of_warp[0];
  for (int warp = 1; warp < kWarps; ++warp) best = better_split(best, of_warp[warp]);
  return best.at;
}

/// ends[c]: one past the last point of interval c. Returns how many are not empty. One thread.
__device__ int trace_back(const RowWork& work, int points, int intervals, int last_split,
                          int* ends) {
  int count = 0;
  int end = points;
  int begin = last_split;
  for (int layer = intervals - 2;; --layer) {
    if (end > begin) ends[count++] = end;
    end = begin;
    if (layer < 0) break;
    begin = layer == 0 ? 0 : work.splits[(layer - 1) * work.stride + end];
  }
  for (int i = 0; i < count / 2; ++i) {
    const int other = ends[i];
    ends[i] = ends[count - 1 - i];
    ends[count - 1 - i] = other;
  }
  return count;
}

/// The partition of the points. Returns the number of intervals to all threads.
__device__ int partition(RowWork& work, int points, int intervals, int* ends) {
  __shared__ int count;
  if (points <= intervals) {
    for (int i = static_cast<int>(threadIdx.x); i < points; i += kThreads) ends[i] = i + 1;
    __syncthreads();
    return points;
  }
  sum_prefixes(work, points);
  for (int j = static_cast<int>(threadIdx.x); j <= points; j += kThreads) {
    work.before[j] = j == 0 ? 0.0 : explained(work.mass[j], work.moment[j]);
  }
  __syncthreads();
  const int* least = nullptr;
  for (int layer = 1; layer < intervals - 1; ++layer) {
    int* splits = work.splits + (layer - 1) * work.stride;
    solve_layer(work, points, least, splits);
    least = splits;
    double* const solved = work.gain;
    work.gain = work.before;
    work.before = solved;
  }
  const int last = solve_last_state(work, points, least);
  if (threadIdx.x == 0) count = trace_back(work, points, intervals, last, ends);
  __syncthreads();
  return count;
}

/// One warp per interval.
__device__ void average_intervals(const RowWork& work, const int* ends, int count,
                                  double* centroids) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int c = static_cast<int>(threadIdx.x) / kWarp; c < count; c += kWarps) {
    double mass = 0.0;
    double moment = 0.0;
    for (int i = (c == 0 ? 0 : ends[c - 1]) + lane; i < ends[c]; i += kWarp) {
      mass += work.weights[i];
      moment += work.weights[i] * static_cast<double>(work.values[i]);
    }
    mass = warp_sum(mass);
    moment = warp_sum(moment);
    if (lane == 0) centroids[c] = moment / mass;
  }
}

/// A block takes rows blockIdx.x, + gridDim.x, ...
__global__ void __launch_bounds__(kThreads, 2)
    cluster_kernel(SortedRows in, WorkLayout layout, std::byte* memory, int shared_states,
                   double* centroids, std::int32_t* used) {
  extern __shared__ double arrays[];
  __shared__ int ends[kMaxIntervals];
  std::byte* base = memory + blockIdx.x * layout.bytes();
  for (std::int64_t row = blockIdx.x; row < in.rows; row += gridDim.x) {
    if (in.counts[row] < 0) {
      if (threadIdx.x == 0) used[row] = -1;
      continue;
    }
    const RowWork outer = work_of(base, layout, nullptr, layout.states());
    const int points = merge_points(in, row, outer.weights, outer.values);
    const bool fits = points + 1 <= shared_states;
    RowWork work = work_of(base, layout, fits ? arrays : nullptr,
                           fits ? std::int64_t{shared_states} : layout.states());
    const int count = partition(work, points, layout.intervals, ends);
    average_intervals(work, ends, count, centroids + row * layout.intervals);
    if (threadIdx.x == 0) used[row] = count;
    __syncthreads();  // the next row takes over the arrays
  }
}

int attribute_of(int device, cudaDeviceAttr attribute) {
  int value = 0;
  check_cuda(cudaDeviceGetAttribute(&value, attribute, device), "cluster rows");
  return value;
}

/// How many states a block keeps in shared memory: so many that two blocks find room on a
/// multiprocessor, or where the rows are likely to have more, all that one block can have.
int states_in_shared(int device, const SortedRows& input) {
  const int most = attribute_of(device, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  const int half = attribute_of(device, cudaDevAttrMaxSharedMemoryPerMultiprocessor) / 2;
  const int reserved = attribute_of(device, cudaDevAttrReservedSharedMemoryPerBlock);
  const int by_one = (most - kStaticBytes) / kStateBytes;
  const int by_two = (std::min(most, half - reserved) - kStaticBytes) / kStateBytes;
  const bool fits_two = input.likely_points < by_two;
  return static_cast<int>(std::min<std::int64_t>(input.columns + 1, fits_two ? by_two : by_one));
}

}  // namespace

void cluster_sorted_rows(CudaContext& context, const SortedRows& input, int intervals,
                         double* centroids, std::int32_t* used) {
  const int shared_states = states_in_shared(context.device, input);
  const int shared_bytes = shared_states * kStateBytes;
  check_cuda(cudaFuncSetAttribute(cluster_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  shared_bytes),
             "cluster rows");
  const WorkLayout layout{input.columns, intervals};
  const std::int64_t resident = std::max<std::int64_t>(1, kWorkBytes / layout.bytes());
  const std::int64_t blocks =
      std::min({input.rows, std::int64_t{2} * context.multiprocessors, resident});
  Tensor work = context.memory.allocate(DType::u8, {blocks, layout.bytes()});
  cluster_kernel<<<static_cast<unsigned>(blocks), kThreads, shared_bytes, context.stream>>>(
      input, layout, work.view().data, shared_states, centroids, used);
  check_launch("cluster rows");
}

}  // namespace quern::gpu
