#include <algorithm>

#include "kernels/core/fingerprint.h"
#include "kernels/cuda/activate.cuh"
#include "kernels/cuda/convert.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/layer_ops.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/rotate.h"

namespace quern {
namespace {

constexpr int kThreads = 256;
constexpr int kStep = kThreads * kPack;  // elements that a block takes at a time
constexpr int kCountBlocks = 1024;

/// Blocks stride over x; integer atomics make the order of blocks irrelevant.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    count_nonfinite_kernel(const T* x, std::int64_t elems, unsigned long long* count) {
  int found = 0;
  for (std::int64_t at = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; at < elems;
       at += std::int64_t{gridDim.x} * kThreads) {
    found += isfinite(widen(x[at])) ? 0 : 1;
  }
  found = reduce_block(found, Sum{});
  if (threadIdx.x == 0 && found > 0) atomicAdd(count, static_cast<unsigned long long>(found));
}

/// Blocks stride over x; integer atomics make the order of blocks irrelevant.
__global__ void __launch_bounds__(kThreads)
    fingerprint_kernel(const std::uint32_t* x, std::int64_t elems, unsigned long long* sum) {
  unsigned long long share = 0;
  for (std::int64_t at = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; at < elems;
       at += std::int64_t{gridDim.x} * kThreads) {
    share += fingerprint_share(static_cast<std::uint64_t>(at), x[at]);
  }
  share = reduce_block(share, Sum{});
  if (threadIdx.x == 0) atomicAdd(sum, share);
}

/// A block copies one row of the table.
template <typename From, typename T>
__global__ void __launch_bounds__(kThreads)
    embed_kernel(const From* table, const std::int32_t* ids, std::int64_t width, T* out) {
  const From* from = table + ids[blockIdx.x] * width;
  T* to = out + blockIdx.x * width;
  for (std::int64_t i = threadIdx.x; i < width; i += kThreads) {
    to[i] = narrow<T>(static_cast<Wide<T>>(widen(from[i])));
  }
}

template <typename W>
struct NormRows {
  const W* weight;
  std::int64_t width;
  float epsilon;
  bool aligned;
};

/// A block norms one row; a thread takes every kThreads-th pack.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    rms_norm_kernel(const T* x, const NormRows<Wide<T>> rows, T* out) {
  using W = Wide<T>;
  const T* from = x + blockIdx.x * rows.width;
  T* to = out + blockIdx.x * rows.width;
  W squares = 0;
  for (std::int64_t at = threadIdx.x * kPack; at < rows.width; at += kStep) {
    const Pack<T> pack = load_pack(from + at, rows.width - at, rows.aligned);
    for (int i = 0; i < kPack; ++i) squares += widen(pack.at[i]) * widen(pack.at[i]);
  }
  const W mean = reduce_block(squares, Sum{}) / static_cast<W>(rows.width);
  const W inverse = W{1} / sqrt(mean + rows.epsilon);
  for (std::int64_t at = threadIdx.x * kPack; at < rows.width; at += kStep) {
    const std::int64_t left = rows.width - at;
    Pack<T> pack = load_pack(from + at, left, rows.aligned);
    const Pack<W> weight = load_pack(rows.weight + at, left, rows.aligned);
    for (int i = 0; i < kPack; ++i) {
      pack.at[i] = narrow<T>(widen(pack.at[i]) * inverse * weight.at[i]);
    }
    store_pack(pack, to + at, left, rows.aligned);
  }
}

/// A thread takes one pack.
template <typename T, Activation kActivation>
__global__ void __launch_bounds__(kThreads)
    gate_kernel(T* gate, const T* up, std::int64_t elems, bool aligned) {
  const std::int64_t at = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * kPack;
  if (at >= elems) return;
  Pack<T> product = load_pack(gate + at, elems - at, aligned);
  const Pack<T> factor = load_pack(up + at, elems - at, aligned);
  for (int i = 0; i < kPack; ++i) {
    const Wide<T> value = activate<kActivation>(widen(product.at[i])).value;
    product.at[i] = narrow<T>(value * widen(factor.at[i]));
  }
  store_pack(product, gate + at, elems - at, aligned);
}

/// A thread takes one pack.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    add_kernel(T* x, const T* delta, std::int64_t elems, bool aligned) {
  const std::int64_t at = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * kPack;
  if (at >= elems) return;
  Pack<T> sum = load_pack(x + at, elems - at, aligned);
  const Pack<T> term = load_pack(delta + at, elems - at, aligned);
  for (int i = 0; i < kPack; ++i) {
    sum.at[i] = narrow<T>(widen(sum.at[i]) + widen(term.at[i]));
  }
  store_pack(sum, x + at, elems - at, aligned);
}

/// A block takes one row of logits.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    token_nll_kernel(const T* logits, const std::int32_t* targets, std::int64_t words, float* nll) {
  const T* row = logits + blockIdx.x * words;
  const std::int32_t target = targets[blockIdx.x];
  if (target < 0) {
    if (threadIdx.x == 0) nll[blockIdx.x] = 0.0F;
    return;
  }
  Wide<T> largest = widen(row[0]);
  for (std::int64_t i = threadIdx.x; i < words; i += kThreads) {
    largest = fmax(largest, widen(row[i]));
  }
  largest = reduce_block(largest, Largest{});
  Wide<T> sum = 0;
  for (std::int64_t i = threadIdx.x; i < words; i += kThreads) {
    sum += exp(widen(row[i]) - largest);
  }
  sum = reduce_block(sum, Sum{});
  if (threadIdx.x != 0) return;
  nll[blockIdx.x] = narrow<float>(log(sum) + (largest - widen(row[target])));
}

}  // namespace

std::unique_ptr<LayerOps> make_cuda_layer_ops(CudaContext& context) {
  return std::make_unique<CudaLayerOps>(context);
}

void CudaLayerOps::do_convert(ConstTensorView in, TensorView out) {
  convert_elements(context_, in, out);
}

void CudaLayerOps::do_count_nonfinite(ConstTensorView x, TensorView count) {
  const unsigned blocks = std::min<unsigned>(block_count(x.elems(), kThreads), kCountBlocks);
  with_plain_float(x.dtype, [&]<typename T>(TypeTag<T>) {
    count_nonfinite_kernel<T><<<blocks, kThreads, 0, context_.stream>>>(
        x.as<T>(), x.elems(), count.as<unsigned long long>());
  });
  check_launch("count_nonfinite");
}

void CudaLayerOps::do_fingerprint(ConstTensorView x, TensorView out) {
  context_.memory.clear(out);
  const unsigned blocks = std::min<unsigned>(block_count(x.elems(), kThreads), kCountBlocks);
  if (blocks == 0) return;
  fingerprint_kernel<<<blocks, kThreads, 0, context_.stream>>>(x.as<std::uint32_t>(), x.elems(),
                                                               out.as<unsigned long long>());
  check_launch("fingerprint");
}

void CudaLayerOps::do_embed(ConstTensorView table, ConstTensorView ids, TensorView out) {
  expect_activation(context_, "embed", {out});
  with_plain_float(table.dtype, [&]<typename From>(TypeTag<From>) {
    with_plain_float(out.dtype, [&]<typename T>(TypeTag<T>) {
      embed_kernel<From, T><<<block_count(ids.elems(), 1), kThreads, 0, context_.stream>>>(
          table.as<From>(), ids.as<std::int32_t>(), table.shape[1], out.as<T>());
    });
  });
  check_launch("embed");
}

void CudaLayerOps::do_rms_norm(ConstTensorView x, ConstTensorView weight, float epsilon,
                               TensorView out) {
  expect_activation(context_, "rms_norm", {x, out});
  const Converted scales(context_, weight, wide_dtype(x.dtype));
  const bool aligned =
      x.shape[1] % kPack == 0 && packs_aligned({x.data, out.data, scales.view().data});
  with_plain_float(x.dtype, [&]<typename T>(TypeTag<T>) {
    const NormRows<Wide<T>> rows{scales.view().as<Wide<T>>(), x.shape[1], epsilon, aligned};
    rms_norm_kernel<T><<<block_count(x.shape[0], 1), kThreads, 0, context_.stream>>>(
        x.as<T>(), rows, out.as<T>());
  });
  check_launch("rms_norm");
}

void CudaLayerOps::do_rotate(TensorView x, ConstTensorView table, std::int64_t head_dim) {
  expect_activation(context_, "rotate", {x});
  rotate_heads(context_, x, table, head_dim, Turn::forward);
}

void CudaLayerOps::do_gated_activation(TensorView gate, ConstTensorView up, Activation activation) {
  expect_activation(context_, "gated_activation", {gate, up});
  const std::int64_t elems = gate.elems();
  const bool aligned = packs_aligned({gate.data, up.data});
  with_plain_float(gate.dtype, [&]<typename T>(TypeTag<T>) {
    with_activation_function(activation, [&]<Activation kActivation>() {
      gate_kernel<T, kActivation><<<block_count(elems, kStep), kThreads, 0, context_.stream>>>(
          gate.as<T>(), up.as<T>(), elems, aligned);
    });
  });
  check_launch("gated_activation");
}

void CudaLayerOps::do_add(TensorView x, ConstTensorView delta) {
  expect_activation(context_, "add", {x, delta});
  const std::int64_t elems = x.elems();
  const bool aligned = packs_aligned({x.data, delta.data});
  with_plain_float(x.dtype, [&]<typename T>(TypeTag<T>) {
    add_kernel<T><<<block_count(elems, kStep), kThreads, 0, context_.stream>>>(
        x.as<T>(), delta.as<T>(), elems, aligned);
  });
  check_launch("add");
}

void CudaLayerOps::do_token_nll(ConstTensorView logits, ConstTensorView targets, TensorView nll) {
  // A product may leave its sums as they are: logits are often wanted in f32.
  if (logits.dtype != DType::f32) expect_activation(context_, "token_nll", {logits});
  with_plain_float(logits.dtype, [&]<typename T>(TypeTag<T>) {
    token_nll_kernel<T><<<block_count(logits.shape[0], 1), kThreads, 0, context_.stream>>>(
        logits.as<T>(), targets.as<std::int32_t>(), logits.shape[1], nll.as<float>());
  });
  check_launch("token_nll");
}

}  // namespace quern
