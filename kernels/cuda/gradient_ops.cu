#include "kernels/cuda/activate.cuh"
#include "kernels/cuda/convert.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/gradient_ops.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/rotate.h"

namespace quern {
namespace {

constexpr int kThreads = 256;
constexpr int kStep = kThreads * kPack;  // elements that a block takes at a time

template <typename T>
struct NormGradient {
  const T* x;
  const Wide<T>* weight;
  const T* dy;
  T* dx;
  std::int64_t width;
  float epsilon;
  bool aligned;
};

/// A block takes one row, a thread every kThreads-th pack of it.
template <typename T>
__global__ void __launch_bounds__(kThreads) rms_norm_gradient_kernel(const NormGradient<T> task) {
  using W = Wide<T>;
  const std::int64_t row = blockIdx.x * task.width;
  W squares = 0;
  W product = 0;
  for (std::int64_t at = threadIdx.x * kPack; at < task.width; at += kStep) {
    const std::int64_t left = task.width - at;
    const Pack<T> x = load_pack(task.x + row + at, left, task.aligned);
    const Pack<T> dy = load_pack(task.dy + row + at, left, task.aligned);
    const Pack<W> weight = load_pack(task.weight + at, left, task.aligned);
    for (int i = 0; i < kPack; ++i) {
      squares += widen(x.at[i]) * widen(x.at[i]);
      product += widen(dy.at[i]) * weight.at[i] * widen(x.at[i]);
    }
  }
  const auto width = static_cast<W>(task.width);
  const W inverse = W{1} / sqrt(reduce_block(squares, Sum{}) / width + task.epsilon);
  const W pull = inverse * inverse * (reduce_block(product, Sum{}) / width);
  for (std::int64_t at = threadIdx.x * kPack; at < task.width; at += kStep) {
    const std::int64_t left = task.width - at;
    const Pack<T> x = load_pack(task.x + row + at, left, task.aligned);
    Pack<T> dy = load_pack(task.dy + row + at, left, task.aligned);
    const Pack<W> weight = load_pack(task.weight + at, left, task.aligned);
    for (int i = 0; i < kPack; ++i) {
      dy.at[i] = narrow<T>(inverse * (widen(dy.at[i]) * weight.at[i] - widen(x.at[i]) * pull));
    }
    store_pack(dy, task.dx + row + at, left, task.aligned);
  }
}

template <typename T>
struct GateGradient {
  T* gate;
  T* up;
  const T* dh;
  std::int64_t elems;
  bool aligned;
};

/// A thread takes one pack.
template <typename T, Activation kActivation>
__global__ void __launch_bounds__(kThreads) gate_gradient_kernel(const GateGradient<T> task) {
  const std::int64_t at = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * kPack;
  if (at >= task.elems) return;
  const std::int64_t left = task.elems - at;
  Pack<T> gate = load_pack(task.gate + at, left, task.aligned);
  Pack<T> up = load_pack(task.up + at, left, task.aligned);
  const Pack<T> dh = load_pack(task.dh + at, left, task.aligned);
  for (int i = 0; i < kPack; ++i) {
    const Slope<Wide<T>> slope = activate<kActivation>(widen(gate.at[i]));
    gate.at[i] = narrow<T>(widen(dh.at[i]) * widen(up.at[i]) * slope.derivative);
    up.at[i] = narrow<T>(widen(dh.at[i]) * slope.value);
  }
  store_pack(gate, task.gate + at, left, task.aligned);
  store_pack(up, task.up + at, left, task.aligned);
}

/// A block takes one row of logits.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    token_nll_gradient_kernel(T* logits, const std::int32_t* targets, std::int64_t words,
                              float scale) {
  T* row = logits + blockIdx.x * words;
  const std::int32_t target = targets[blockIdx.x];
  if (target < 0) {
    for (std::int64_t i = threadIdx.x; i < words; i += kThreads) row[i] = narrow<T>(0.0F);
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
  const Wide<T> factor = scale / reduce_block(sum, Sum{});
  for (std::int64_t i = threadIdx.x; i < words; i += kThreads) {
    const Wide<T> part = exp(widen(row[i]) - largest) * factor;
    row[i] = narrow<T>(i == target ? part - scale : part);
  }
}

}  // namespace

std::unique_ptr<GradientOps> make_cuda_gradient_ops(CudaContext& context) {
  return std::make_unique<CudaGradientOps>(context);
}

void CudaGradientOps::do_rms_norm(ConstTensorView x, ConstTensorView weight, float epsilon,
                                  ConstTensorView dy, TensorView dx) {
  expect_activation(context_, "gradient of rms_norm", {x, dy, dx});
  const Converted scales(context_, weight, wide_dtype(x.dtype));
  const bool aligned =
      x.shape[1] % kPack == 0 && packs_aligned({x.data, dy.data, dx.data, scales.view().data});
  with_plain_float(x.dtype, [&]<typename T>(TypeTag<T>) {
    const NormGradient<T> task{.x = x.as<T>(),
                               .weight = scales.view().as<Wide<T>>(),
                               .dy = dy.as<T>(),
                               .dx = dx.as<T>(),
                               .width = x.shape[1],
                               .epsilon = epsilon,
                               .aligned = aligned};
    rms_norm_gradient_kernel<T><<<block_count(x.shape[0], 1), kThreads, 0, context_.stream>>>(task);
  });
  check_launch("gradient of rms_norm");
}

void CudaGradientOps::do_rotate(TensorView dx, ConstTensorView table, std::int64_t head_dim) {
  expect_activation(context_, "gradient of rotate", {dx});
  rotate_heads(context_, dx, table, head_dim, Turn::back);
}

void CudaGradientOps::do_gated_activation(TensorView gate, TensorView up, ConstTensorView dh,
                                          Activation activation) {
  expect_activation(context_, "gradient of gated_activation", {gate, up, dh});
  const bool aligned = packs_aligned({gate.data, up.data, dh.data});
  with_plain_float(gate.dtype, [&]<typename T>(TypeTag<T>) {
    with_activation_function(activation, [&]<Activation kActivation>() {
      const GateGradient<T> task{gate.as<T>(), up.as<T>(), dh.as<T>(), gate.elems(), aligned};
      gate_gradient_kernel<T, kActivation>
          <<<block_count(task.elems, kStep), kThreads, 0, context_.stream>>>(task);
    });
  });
  check_launch("gradient of gated_activation");
}

void CudaGradientOps::do_token_nll(TensorView logits, ConstTensorView targets, float scale) {
  if (logits.dtype != DType::f32) {
    expect_activation(context_, "gradient of token_nll", {logits});
  }
  with_plain_float(logits.dtype, [&]<typename T>(TypeTag<T>) {
    token_nll_gradient_kernel<T><<<block_count(logits.shape[0], 1), kThreads, 0, context_.stream>>>(
        logits.as<T>(), targets.as<std::int32_t>(), logits.shape[1], scale);
  });
  check_launch("gradient of token_nll");
}

}  // namespace quern
