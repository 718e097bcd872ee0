#include <limits>
#include <span>
#include <string>
#include <vector>

#include "kernels/core/error.h"
#include "kernels/cuda/codebook_table.cuh"
#include "kernels/cuda/errors.h"

namespace quern::gpu {
namespace {

using namespace numeric;
using namespace codebook;

constexpr int kThreads = 256;

/// One thread per element.
template <typename T>
__global__ void convert_kernel(const T* in, std::int64_t elems, float* out) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < elems) out[i] = to_float(in[i]);
}

/// One block per row.
__global__ void finish_kernel(const float* weights, bool exactly, Centroids centroids,
                              StateView state) {
  __shared__ SharedTable shared;
  __shared__ float bounds[kMaxCount];
  const std::int64_t row = blockIdx.x;
  const int used = centroids.used[row];
  if (used < 0) return;
  const float* w = weights + row * state.columns;
  const TableFormat format = format_of_row(state, w, row);
  for (int c = static_cast<int>(threadIdx.x); c < used; c += kThreads) {
    shared.values[c] = centroids.values[row * state.count + c];
  }
  __syncthreads();
  if (threadIdx.x == 0) finish_table(shared, used, format);
  __syncthreads();
  fill_bounds(shared.table, state.count, bounds);
  for (int c = static_cast<int>(threadIdx.x); c < state.count; c += kThreads) {
    state.table[row * state.count + c] = shared.table[c];
  }
  __syncthreads();
  std::uint8_t* codes = state.codes + row * state.columns;
  for (std::int64_t k = threadIdx.x; k < state.columns; k += kThreads) {
    codes[k] = static_cast<std::uint8_t>(count_below(bounds, state.count - 1, w[k]));
  }
  if (format.has_outliers) settle_outliers(state, shared.table, w, row, exactly);
}

/// One block per row.
__global__ void settle_kernel(const float* weights, bool exactly, StateView state) {
  __shared__ SharedTable shared;
  const std::int64_t row = blockIdx.x;
  const float* w = weights + row * state.columns;
  float* table = state.table + row * state.count;
  const TableFormat format = format_of_row(state, w, row);
  for (int c = static_cast<int>(threadIdx.x); c < state.count; c += kThreads) {
    shared.values[c] = static_cast<double>(table[c]);
  }
  __syncthreads();
  if (threadIdx.x == 0) finish_table(shared, state.count, format);
  __syncthreads();
  for (int c = static_cast<int>(threadIdx.x); c < state.count; c += kThreads) {
    table[c] = shared.table[c];
  }
  std::uint8_t* codes = state.codes + row * state.columns;
  for (std::int64_t k = threadIdx.x; k < state.columns; k += kThreads) {
    codes[k] = shared.places[codes[k]];
  }
  if (format.has_outliers) settle_outliers(state, shared.table, w, row, exactly);
}

/// One block per row: how many of its weights are masked.
__global__ void count_kernel(const std::uint8_t* mask, std::int64_t columns, std::int32_t* counts) {
  int count = 0;
  for (std::int64_t k = threadIdx.x; k < columns; k += kThreads) {
    count += mask[std::int64_t{blockIdx.x} * columns + k] != 0 ? 1 : 0;
  }
  count = block_sum(count);
  if (threadIdx.x == 0) counts[blockIdx.x] = count;
}

/// Where the sparse matrix goes.
struct SparseView {
  const std::int32_t* starts;
  std::int32_t* cols;
  float* vals;
};

/// One block per row, kThreads columns at a time in order.
__global__ void gather_kernel(const float* weights, bool exactly, StateView state, SparseView out) {
  const std::int64_t row = blockIdx.x;
  std::int64_t at = out.starts[row];
  for (std::int64_t begin = 0; begin < state.columns; begin += kThreads) {
    const std::int64_t k = begin + threadIdx.x;
    const std::int64_t element = row * state.columns + k;
    const bool kept = k < state.columns && state.mask[element] != 0;
    int total = 0;
    const int before = block_scan(kept ? 1 : 0, total);
    if (kept) {
      const float centroid = state.table[row * state.count + state.codes[element]];
      float value = 0.0F;
      if (!outlier_value(weights[element], centroid, exactly, value)) {
        value = __fsub_rn(weights[element], centroid);
      }
      out.cols[at + before] = static_cast<std::int32_t>(k);
      out.vals[at + before] = value;
    }
    at += total;
  }
}

/// Row pointers from counts per row.
std::vector<std::int32_t> row_starts(const std::vector<std::int32_t>& counts) {
  std::vector<std::int32_t> starts{0};
  std::int64_t total = 0;
  for (std::size_t n = 0; n < counts.size(); ++n) {
    total += counts[n];
    if (total > std::numeric_limits<std::int32_t>::max()) {
      throw InputError("cluster: a module keeps more than 2^31 weights apart by row " +
                       std::to_string(n) + " of " + std::to_string(counts.size()) +
                       "; its sparse matrix counts in 32 bits; ask for fewer outliers");
    }
    starts.push_back(static_cast<std::int32_t>(total));
  }
  return starts;
}

}  // namespace

FloatWeights load_weights(CudaContext& context, ConstTensorView weight) {
  FloatWeights loaded;
  loaded.rows = weight.shape[0];
  loaded.columns = weight.shape[1];
  loaded.exactly = weight.dtype == DType::bf16 || weight.dtype == DType::f16;
  loaded.zero_bits = weight.dtype == DType::bf16 ? 16 : weight.dtype == DType::f16 ? 13 : 0;
  if (weight.dtype == DType::f32) {
    loaded.data = weight.as<float>();
    return loaded;
  }
  loaded.converted = context.memory.allocate(DType::f32, weight.shape);
  auto* out = loaded.converted.view().as<float>();
  loaded.data = out;
  with_plain_float(weight.dtype, [&](auto element) {
    using T = typename decltype(element)::Type;
    convert_kernel<<<block_count(weight.elems(), kThreads), kThreads, 0, context.stream>>>(
        weight.as<T>(), weight.elems(), out);
  });
  check_launch("load weights");
  return loaded;
}

CodebookState allocate_state(Memory& memory, const Shape& shape, const CodebookSpec& spec) {
  const std::int64_t count = std::int64_t{1} << spec.bits;
  return {memory.allocate(DType::u8, shape), memory.allocate(DType::f32, {shape[0], count}),
          memory.allocate(DType::u8, shape)};
}

void copy_state(Memory& memory, CodebookState& from, CodebookState& to) {
  memory.copy(from.codes.view(), to.codes.view());
  memory.copy(from.table.view(), to.table.view());
  memory.copy(from.mask.view(), to.mask.view());
}

StateView view_of(CodebookState& state, const CodebookSpec& spec) {
  return {state.codes.view().as<std::uint8_t>(),
          state.table.view().as<float>(),
          state.mask.view().as<std::uint8_t>(),
          state.codes.shape()[1],
          1 << spec.bits,
          spec.table_dtype == DType::f16};
}

void finish_rows(CudaContext& context, const FloatWeights& weights, const Centroids& centroids,
                 const StateView& state) {
  finish_kernel<<<block_count(weights.rows, 1), kThreads, 0, context.stream>>>(
      weights.data, weights.exactly, centroids, state);
  check_launch("finish tables");
}

void settle_rows(CudaContext& context, const FloatWeights& weights, const StateView& state) {
  settle_kernel<<<block_count(weights.rows, 1), kThreads, 0, context.stream>>>(
      weights.data, weights.exactly, state);
  check_launch("settle tables");
}

CodebookTensor assemble(CudaContext& context, const FloatWeights& weights, CodebookState state,
                        const CodebookSpec& spec) {
  Memory& memory = context.memory;
  const StateView view = view_of(state, spec);
  Tensor counts = memory.allocate(DType::i32, {weights.rows});
  count_kernel<<<block_count(weights.rows, 1), kThreads, 0, context.stream>>>(
      view.mask, view.columns, counts.view().as<std::int32_t>());
  check_launch("assemble codebook");
  std::vector<std::int32_t> host_counts(static_cast<std::size_t>(weights.rows));
  memory.download(counts.view(), std::as_writable_bytes(std::span(host_counts)));
  memory.synchronize();
  const std::vector<std::int32_t> starts = row_starts(host_counts);
  Tensor rows = memory.allocate(DType::i32, {weights.rows + 1});
  Tensor cols = memory.allocate(DType::i32, {starts.back()});
  Tensor vals = memory.allocate(DType::f32, {starts.back()});
  memory.upload(std::as_bytes(std::span(starts)), rows.view());
  gather_kernel<<<block_count(weights.rows, 1), kThreads, 0, context.stream>>>(
      weights.data, weights.exactly, view,
      {rows.view().as<std::int32_t>(), cols.view().as<std::int32_t>(), vals.view().as<float>()});
  check_launch("assemble codebook");
  memory.synchronize();  // the row pointers were uploaded from here
  return {std::move(state.codes), std::move(state.table), std::move(rows), std::move(cols),
          std::move(vals)};
}

}  // namespace quern::gpu
