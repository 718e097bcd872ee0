#include <benchmark/benchmark.h>

#include <cmath>
#include <memory>
#include <optional>
#include <random>

#include "kernels/cuda/memory.h"
#include "kernels/cuda/stream.h"
#include "kernels/cuda_backend.h"

namespace quern::bench {
namespace {

// LLaMA-7B: 32 heads of 128, feed-forward width 11008, sequences of 2048 tokens.

Tensor random_tensor(Backend& backend, const Shape& shape) {
  HostTensor host(DType::f32, shape);
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  for (float& value : host.as<float>()) value = normal(engine);
  const Tensor exact = backend.memory().to_device(host);
  Tensor tensor = backend.memory().allocate(backend.activation_dtype(), shape);
  backend.layers().convert(exact.view(), tensor.view());
  backend.memory().synchronize();
  return tensor;
}

/// Times `work` by the device's clock, after one run to warm up; `flop` is what it has to do.
template <typename Work>
void measure(benchmark::State& state, Backend& backend, double flop, Work work) {
  StreamTimer timer(dynamic_cast<CudaMemory&>(backend.memory()).stream());
  work();
  for (auto _ : state) {
    timer.begin();
    work();
    state.SetIterationTime(timer.seconds_since_begin());
  }
  state.SetLabel(backend.numerics());
  state.counters["flop"] = benchmark::Counter(flop, benchmark::Counter::kIsIterationInvariantRate,
                                              benchmark::Counter::kIs1000);
}

std::unique_ptr<Backend> start(benchmark::State& state, DType dtype) {
  if (cuda_device_count() > 0) return make_cuda_backend({.device = 0, .activation_dtype = dtype});
  state.SkipWithError("no CUDA device on this machine");
  return nullptr;
}

void linear(benchmark::State& state, DType dtype) {
  const auto cuda = start(state, dtype);
  if (!cuda) return;
  const std::int64_t tokens = state.range(0);
  const std::int64_t outputs = state.range(1);
  const std::int64_t inputs = state.range(2);
  const Tensor x = random_tensor(*cuda, {tokens, inputs});
  const Tensor weight = random_tensor(*cuda, {outputs, inputs});
  const Tensor values = random_tensor(*cuda, {outputs});
  const bool biased = state.range(3) != 0;
  const auto bias = biased ? std::optional(values.view()) : std::nullopt;
  Tensor out = cuda->memory().allocate(dtype, {tokens, outputs});
  measure(state, *cuda, 2.0 * static_cast<double>(tokens * outputs * inputs),
          [&] { cuda->layers().linear(x.view(), weight.view(), bias, out.view()); });
}

/// What attention works on.
struct AttentionCase {
  AttentionCase(Backend& backend, std::int64_t sequences, std::int64_t heads)
      : shape{.heads = heads,
              .kv_heads = heads,
              .head_dim = 128,
              .sequence_length = 2048,
              .scale = 1.0F / std::sqrt(128.0F)},
        dims{sequences * shape.sequence_length, heads * shape.head_dim},
        q(random_tensor(backend, dims)),
        k(random_tensor(backend, dims)),
        v(random_tensor(backend, dims)),
        out(backend.memory().allocate(backend.activation_dtype(), dims)) {
    backend.layers().attention(q.view(), k.view(), v.view(), shape, out.view());
  }

  /// Of one product over the pairs that causality leaves.
  double product_flop() const {
    return 2.0 * static_cast<double>(dims.elems() * (shape.sequence_length + 1) / 2);
  }

  AttentionShape shape;
  Shape dims;
  Tensor q, k, v, out;
};

void attention(benchmark::State& state, DType dtype) {
  const auto cuda = start(state, dtype);
  if (!cuda) return;
  AttentionCase task(*cuda, state.range(0), 32);
  measure(state, *cuda, 2 * task.product_flop(), [&] {
    cuda->layers().attention(task.q.view(), task.k.view(), task.v.view(), task.shape,
                             task.out.view());
  });
}

/// Counts the five products that a gradient needs, not those that are computed again.
void attention_gradient(benchmark::State& state, DType dtype) {
  const auto cuda = start(state, dtype);
  if (!cuda) return;
  const AttentionCase task(*cuda, state.range(0), 32);
  const Tensor dy = random_tensor(*cuda, task.dims);
  Tensor dq = cuda->memory().allocate(dtype, task.dims);
  Tensor dk = cuda->memory().allocate(dtype, task.dims);
  Tensor dv = cuda->memory().allocate(dtype, task.dims);
  measure(state, *cuda, 5 * task.product_flop(), [&] {
    cuda->gradients().attention({task.q.view(), task.k.view(), task.v.view(), task.out.view()},
                                dy.view(), task.shape, {dq.view(), dk.view(), dv.view()});
  });
}

void linear_shapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"tokens", "outputs", "inputs", "bias"});
  for (const std::int64_t tokens : {2048, 8192}) {
    benchmark->Args({tokens, 4096, 4096, 0})->Args({tokens, 4096, 4096, 1});
    benchmark->Args({tokens, 11008, 4096, 0})->Args({tokens, 4096, 11008, 0});
  }
  benchmark->UseManualTime()->Unit(benchmark::kMillisecond);
}

void attention_sizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->Arg(1)->Arg(4)->UseManualTime()->Unit(benchmark::kMillisecond);
}

BENCHMARK_CAPTURE(linear, bf16, DType::bf16)->Apply(linear_shapes);
BENCHMARK_CAPTURE(linear, f16, DType::f16)->Apply(linear_shapes);
BENCHMARK_CAPTURE(linear, f32, DType::f32)->Apply(linear_shapes);
BENCHMARK_CAPTURE(attention, bf16, DType::bf16)->Apply(attention_sizes);
BENCHMARK_CAPTURE(attention, f16, DType::f16)->Apply(attention_sizes);
BENCHMARK_CAPTURE(attention, f32, DType::f32)->Apply(attention_sizes);
BENCHMARK_CAPTURE(attention_gradient, bf16, DType::bf16)->Apply(attention_sizes);
BENCHMARK_CAPTURE(attention_gradient, f16, DType::f16)->Apply(attention_sizes);
BENCHMARK_CAPTURE(attention_gradient, f32, DType::f32)->Apply(attention_sizes);

}  // namespace
}  // namespace quern::bench
