#include <algorithm>
#include <array>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/core/error.h"
#include "kernels/cuda/codebook_cluster.h"
#include "kernels/cuda/codebook_table.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/kmeans_row.h"
#include "kernels/cuda/order_key.cuh"
#include "kernels/cuda/outliers.h"

namespace quern::gpu {
namespace {

using namespace numeric;
using namespace codebook;

constexpr int kMaxRounds = 20;
constexpr int kThreads = 256;
constexpr std::int64_t kPanelElems = 1 << 25;  // of the rows that are sorted together
constexpr std::uint32_t kNoKey = 0xFFFFFFFFU;  // after the keys of all finite weights

/// Rows of a module that become sorted pairs.
struct PairSource {
  const float* weights;
  const float* fisher;
  const std::uint8_t* mask;
  const std::uint8_t* changed;  ///< [N] 0: the row stays as it is; null: all change
  std::int64_t first_row;
  std::int64_t columns;
};

struct PairTarget {
  std::uint32_t* keys;
  float* importance;
  std::int32_t* counts;
  std::int32_t* begins;
  std::int32_t* ends;
  unsigned long long* first_bad;  ///< least row with a weight that is not finite
};

/// One block per row. Weights that are masked or without F go to the end; if none has F, all that
/// are not masked count as 1.
__global__ void pairs_kernel(PairSource in, PairTarget out) {
  const std::int64_t row = in.first_row + blockIdx.x;
  const std::int64_t from = row * in.columns;
  const std::int64_t to = std::int64_t{blockIdx.x} * in.columns;
  const bool changes = in.changed == nullptr || in.changed[row] != 0;
  if (threadIdx.x == 0) {
    out.begins[blockIdx.x] = static_cast<std::int32_t>(to);
    out.ends[blockIdx.x] = static_cast<std::int32_t>(changes ? to + in.columns : to);
    out.counts[blockIdx.x] = -1;
  }
  if (!changes) return;
  int informed = 0;
  int open = 0;
  int bad = 0;
  for (std::int64_t k = threadIdx.x; k < in.columns; k += kThreads) {
    const bool masked = in.mask[from + k] != 0;
    bad += isfinite(in.weights[from + k]) ? 0 : 1;
    open += masked ? 0 : 1;
    informed += !masked && in.fisher[from + k] > 0.0F ? 1 : 0;
  }
  bad = block_sum(bad);
  open = block_sum(open);
  informed = block_sum(informed);
  for (std::int64_t k = threadIdx.x; k < in.columns; k += kThreads) {
    const float w = in.weights[from + k];
    const float f = informed > 0 ? in.fisher[from + k] : 1.0F;
    const bool counts = in.mask[from + k] == 0 && f > 0.0F;
    out.keys[to + k] = counts ? order_key(w == 0.0F ? 0.0F : w) : kNoKey;
    out.importance[to + k] = f;
  }
  if (threadIdx.x != 0) return;
  out.counts[blockIdx.x] = informed > 0 ? informed : open;
  if (bad > 0) atomicMin(out.first_bad, static_cast<unsigned long long>(row));
}

/// One thread per element: own = mask != 0.
__global__ void copy_mask_kernel(const std::uint8_t* mask, std::int64_t elems, std::uint8_t* own) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < elems) own[i] = mask[i] != 0 ? 1 : 0;
}

/// One block per row: takes the mask over, changed = whether it differs.
__global__ void move_mask_kernel(const std::uint8_t* mask, std::int64_t columns, std::uint8_t* own,
                                 std::uint8_t* changed) {
  int differs = 0;
  for (std::int64_t k = threadIdx.x; k < columns; k += kThreads) {
    const std::int64_t i = std::int64_t{blockIdx.x} * columns + k;
    differs += own[i] != mask[i] ? 1 : 0;
    own[i] = mask[i];
  }
  differs = block_sum(differs);
  if (threadIdx.x == 0) changed[blockIdx.x] = differs > 0 ? 1 : 0;
}

/// One block per row: gains = F (w - c)^2 with the nearest centroid, also of outliers.
__global__ void gains_kernel(const float* weights, const float* fisher, StateView state,
                             float* gains) {
  __shared__ float table[kMaxCount];
  __shared__ float bounds[kMaxCount];
  const std::int64_t row = blockIdx.x;
  for (int c = static_cast<int>(threadIdx.x); c < state.count; c += kThreads) {
    table[c] = state.table[row * state.count + c];
  }
  __syncthreads();
  fill_bounds(table, state.count, bounds);
  __syncthreads();
  for (std::int64_t k = threadIdx.x; k < state.columns; k += kThreads) {
    const std::int64_t i = row * state.columns + k;
    const float centroid = table[count_below(bounds, state.count - 1, weights[i])];
    const double error = static_cast<double>(weights[i]) - static_cast<double>(centroid);
    gains[i] = static_cast<float>(fmin(static_cast<double>(fisher[i]) * error * error, 1e38));
  }
}

/// One block per row: sum F (w - q)^2 over all that is not exact.
__global__ void objective_kernel(const float* weights, const float* fisher, StateView state,
                                 double* errors) {
  const std::int64_t row = blockIdx.x;
  const float* table = state.table + row * state.count;
  double sum = 0.0;
  for (std::int64_t k = threadIdx.x; k < state.columns; k += kThreads) {
    const std::int64_t i = row * state.columns + k;
    if (state.mask[i] != 0) continue;
    const double error =
        static_cast<double>(weights[i]) - static_cast<double>(table[state.codes[i]]);
    sum += static_cast<double>(fisher[i]) * error * error;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) errors[row] = sum;
}

/// One block per row.
__global__ void count_marks_kernel(const std::uint8_t* mask, std::int64_t columns, double* counts) {
  double count = 0.0;
  for (std::int64_t k = threadIdx.x; k < columns; k += kThreads) {
    count += mask[std::int64_t{blockIdx.x} * columns + k] != 0 ? 1.0 : 0.0;
  }
  count = block_sum(count);
  if (threadIdx.x == 0) counts[blockIdx.x] = count;
}

/// Distinct weights of a row, roughly: a type with few bits repeats itself.
std::int64_t likely_points(const FloatWeights& weights) {
  constexpr int kBf16ZeroBits = 16;
  constexpr std::int64_t kMostOfBf16 = 2048;
  if (weights.zero_bits >= kBf16ZeroBits) return std::min(weights.columns, kMostOfBf16);
  return weights.zero_bits > 0 ? weights.columns * 13 / 16 : weights.columns;
}

/// The centroids of one module, row by row, with any mask.
class ModuleClustering {
 public:
  ModuleClustering(CudaContext& context, const ClusterInput& input)
      : context_(context),
        memory_(context.memory),
        input_(input),
        weights_(load_weights(context, input.weight)),
        fisher_(input.fisher.as<float>()),
        count_(1 << input.spec.bits),
        panel_rows_(std::clamp<std::int64_t>(kPanelElems / weights_.columns, 1, weights_.rows)),
        state_(allocate_state(memory_, input.weight.shape, input.spec)),
        row_values_(memory_.allocate(DType::f64, {weights_.rows})),
        changed_(memory_.allocate(DType::u8, {weights_.rows})),
        centroids_(memory_.allocate(DType::f64, {weights_.rows, count_})),
        used_(memory_.allocate(DType::i32, {weights_.rows})),
        first_bad_(memory_.allocate(DType::i64, {1})) {
    const Shape panel{panel_rows_, weights_.columns};
    for (Tensor* keys : {&keys_, &sorted_keys_}) *keys = memory_.allocate(DType::i32, panel);
    for (Tensor* values : {&importance_, &sorted_}) *values = memory_.allocate(DType::f32, panel);
    for (Tensor* rows : {&counts_, &begins_, &ends_}) {
      *rows = memory_.allocate(DType::i32, {panel_rows_});
    }
  }

  const FloatWeights& weights() const noexcept { return weights_; }
  CodebookState& state() noexcept { return state_; }

  /// Clusters all rows; mask may be null. Synchronises.
  void solve(const std::uint8_t* mask) {
    const std::int64_t elems = weights_.elems();
    if (mask == nullptr) {
      memory_.clear(state_.mask.view());
    } else {
      copy_mask_kernel<<<block_count(elems, kThreads), kThreads, 0, context_.stream>>>(
          mask, elems, state_.mask.view().as<std::uint8_t>());
      check_launch("cluster");
    }
    std::array<std::int64_t, 1> bad{std::numeric_limits<std::int64_t>::max()};
    memory_.upload(std::as_bytes(std::span(bad)), first_bad_.view());
    cluster(nullptr);
    memory_.download(first_bad_.view(), std::as_writable_bytes(std::span(bad)));
    memory_.synchronize();
    if (bad[0] >= weights_.rows) return;
    throw InputError("cluster: output row " + std::to_string(bad[0]) + " of " +
                     std::to_string(weights_.rows) +
                     " holds an infinite or NaN weight; expected finite weights; check the "
                     "checkpoint, or skip this module with a rule");
  }

  /// Takes over another mask and clusters the rows in which it differs.
  void move_outliers(const std::uint8_t* mask) {
    auto* changed = changed_.view().as<std::uint8_t>();
    move_mask_kernel<<<block_count(weights_.rows, 1), kThreads, 0, context_.stream>>>(
        mask, weights_.columns, state_.mask.view().as<std::uint8_t>(), changed);
    check_launch("cluster_jointly");
    cluster(changed);
  }

  void find_gains(float* gains) {
    gains_kernel<<<block_count(weights_.rows, 1), kThreads, 0, context_.stream>>>(
        weights_.data, fisher_, view_of(state_, input_.spec), gains);
    check_launch("cluster_jointly");
  }

  /// sum F (w - q)^2 over all that is not exact. Synchronises.
  double objective() {
    objective_kernel<<<block_count(weights_.rows, 1), kThreads, 0, context_.stream>>>(
        weights_.data, fisher_, view_of(state_, input_.spec), row_values_.view().as<double>());
    check_launch("cluster_jointly");
    return sum_of_rows();
  }

  /// How many bytes of the mask are set. Synchronises.
  std::int64_t count_marks(const std::uint8_t* mask) {
    count_marks_kernel<<<block_count(weights_.rows, 1), kThreads, 0, context_.stream>>>(
        mask, weights_.columns, row_values_.view().as<double>());
    check_launch("cluster_jointly");
    return static_cast<std::int64_t>(sum_of_rows());
  }

 private:
  double sum_of_rows() {
    std::vector<double> values(static_cast<std::size_t>(weights_.rows));
    memory_.download(row_values_.view(), std::as_writable_bytes(std::span(values)));
    memory_.synchronize();
    double total = 0.0;
    for (const double value : values) total += value;
    return total;
  }

  /// Tables and codes of the rows that changed; null: of all.
  void cluster(const std::uint8_t* changed) {
    for (std::int64_t first = 0; first < weights_.rows; first += panel_rows_) {
      cluster_panel(first, std::min(panel_rows_, weights_.rows - first), changed);
    }
    finish_rows(context_, weights_,
                {centroids_.view().as<double>(), used_.view().as<std::int32_t>()},
                view_of(state_, input_.spec));
  }

  void cluster_panel(std::int64_t first, std::int64_t rows, const std::uint8_t* changed) {
    auto* keys = keys_.view().as<std::uint32_t>();
    auto* sorted_keys = sorted_keys_.view().as<std::uint32_t>();
    auto* importance = importance_.view().as<float>();
    auto* sorted = sorted_.view().as<float>();
    auto* counts = counts_.view().as<std::int32_t>();
    auto* begins = begins_.view().as<std::int32_t>();
    auto* ends = ends_.view().as<std::int32_t>();
    pairs_kernel<<<block_count(rows, 1), kThreads, 0, context_.stream>>>(
        {weights_.data, fisher_, state_.mask.view().as<std::uint8_t>(), changed, first,
         weights_.columns},
        {keys, importance, counts, begins, ends, first_bad_.view().as<unsigned long long>()});
    check_launch("cluster");
    sort_rows(context_,
              {keys, importance, sorted_keys, sorted, begins, ends, rows, weights_.columns},
              weights_.zero_bits);
    cluster_sorted_rows(
        context_, {sorted_keys, sorted, counts, rows, weights_.columns, likely_points(weights_)},
        count_, centroids_.view().as<double>() + first * count_,
        used_.view().as<std::int32_t>() + first);
  }

  CudaContext& context_;
  Memory& memory_;
  const ClusterInput& input_;
  FloatWeights weights_;
  const float* fisher_;
  int count_;
  std::int64_t panel_rows_;
  CodebookState state_;
  Tensor row_values_;  ///< [N] f64: objective or count of each row
  Tensor changed_;
  Tensor centroids_;
  Tensor used_;
  Tensor first_bad_;
  Tensor keys_, sorted_keys_, importance_, sorted_, counts_, begins_, ends_;  ///< of a panel
};

}  // namespace

CodebookTensor cluster_rows(CudaContext& context, const ClusterInput& input,
                            std::optional<ConstTensorView> mask) {
  ModuleClustering clustering(context, input);
  clustering.solve(mask ? mask->as<std::uint8_t>() : nullptr);
  return assemble(context, clustering.weights(), std::move(clustering.state()), input.spec);
}

CodebookTensor cluster_rows_jointly(CudaContext& context, const ClusterInput& input,
                                    TensorView mask, std::int64_t outliers) {
  Memory& memory = context.memory;
  ModuleClustering clustering(context, input);
  CodebookState best = allocate_state(memory, input.weight.shape, input.spec);
  auto* marks = mask.as<std::uint8_t>();
  clustering.solve(marks);
  const bool allowed = clustering.count_marks(marks) <= outliers;
  double least = allowed ? clustering.objective() : std::numeric_limits<double>::infinity();
  if (allowed) copy_state(memory, clustering.state(), best);
  Tensor gains = memory.allocate(DType::f32, input.weight.shape);
  auto* gain = gains.view().as<float>();
  for (int round = 0; round < kMaxRounds; ++round) {
    clustering.find_gains(gain);
    memory.clear(mask);
    mark_largest(context, {gain, input.weight.elems(), outliers}, marks);
    clustering.move_outliers(marks);
    const double objective = clustering.objective();
    if (!(objective < least)) break;
    least = objective;
    copy_state(memory, clustering.state(), best);
  }
  memory.copy(best.mask.view(), mask);
  return assemble(context, clustering.weights(), std::move(best), input.spec);
}

}  // namespace quern::gpu
