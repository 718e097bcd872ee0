#include "tests/bench/cpu_bench.h"

namespace quern::bench {
namespace {

void linear(benchmark::State& state, DType weight_type) {
  const std::int64_t tokens = state.range(0);
  const std::int64_t outputs = state.range(1);
  const std::int64_t inputs = state.range(2);
  Cpu cpu(state.range(3));
  const Tensor x = random_tensor(cpu.memory, {tokens, inputs});
  const Tensor weight = random_weight(cpu, {outputs, inputs}, weight_type);
  Tensor out = cpu.memory.allocate(DType::f32, {tokens, outputs});
  for (auto _ : state) cpu.layers.linear(x.view(), weight.view(), std::nullopt, out.view());
  report(state, "flop", 2.0 * static_cast<double>(tokens * outputs * inputs));
}

void attention(benchmark::State& state) {
  const std::int64_t sequences = state.range(0);
  const AttentionShape shape = attention_shape(state);
  Cpu cpu(state.range(4));
  const Shape dims{sequences * shape.sequence_length, shape.heads * shape.head_dim};
  const Tensor q = random_tensor(cpu.memory, dims);
  const Tensor k = random_tensor(cpu.memory, dims);
  const Tensor v = random_tensor(cpu.memory, dims);
  Tensor out = cpu.memory.allocate(DType::f32, dims);
  for (auto _ : state) cpu.layers.attention(q.view(), k.view(), v.view(), shape, out.view());
  report(state, "flop", 2.0 * attention_flop(shape, sequences));
}

void gram(benchmark::State& state) {
  const std::int64_t tokens = state.range(0);
  const std::int64_t channels = state.range(1);
  Cpu cpu(state.range(2));
  const Tensor x = random_tensor(cpu.memory, {tokens, channels});
  Tensor sums = cpu.memory.allocate(DType::i64, {channels, channels});
  Tensor exponents = cpu.memory.allocate(DType::i32, {channels});
  Tensor overflow = cpu.memory.allocate(DType::i64, {1});
  cpu.memory.clear(overflow.view());
  const std::int64_t total = tokens * 1024;
  cpu.statistics.choose_gram_exponents(x.view(), total, 3, exponents.view());
  const GramView view{sums.view(), exponents.view(), overflow.view()};
  for (auto _ : state) {
    // Cleared outside the clock: however long this runs, the sums cannot wrap.
    state.PauseTiming();
    cpu.memory.clear(sums.view());
    state.ResumeTiming();
    cpu.statistics.accumulate_gram(x.view(), total, view);
  }
  report(state, "flop", static_cast<double>(tokens * channels * (channels + 1)));
}

void gated_silu(benchmark::State& state) {
  Cpu cpu(state.range(2));
  const Shape dims{state.range(0), state.range(1)};
  const Tensor x = random_tensor(cpu.memory, dims);
  Tensor gate = cpu.memory.allocate(DType::f32, dims);
  for (auto _ : state) {
    state.PauseTiming();
    cpu.memory.copy(x.view(), gate.view());
    state.ResumeTiming();
    cpu.layers.gated_activation(gate.view(), x.view(), Activation::silu);
  }
  report(state, "elements", static_cast<double>(dims.elems()));
}

void token_nll(benchmark::State& state) {
  Cpu cpu(state.range(2));
  const Tensor logits = random_tensor(cpu.memory, {state.range(0), state.range(1)});
  Tensor targets = cpu.memory.allocate(DType::i32, {state.range(0)});
  cpu.memory.clear(targets.view());
  Tensor nll = cpu.memory.allocate(DType::f32, {state.range(0)});
  for (auto _ : state) cpu.layers.token_nll(logits.view(), targets.view(), nll.view());
  report(state, "elements", static_cast<double>(logits.shape().elems()));
}

void linear_shapes(benchmark::internal::Benchmark* benchmark) {
  for (const std::int64_t threads : {1, 2}) {
    benchmark->Args({512, 1024, 384, threads})->Args({512, 4096, 4096, threads});
  }
}

BENCHMARK_CAPTURE(linear, f32, DType::f32)->Apply(linear_shapes)->UseRealTime();
BENCHMARK_CAPTURE(linear, bf16, DType::bf16)->Apply(linear_shapes)->UseRealTime();
BENCHMARK(attention)
    ->ArgsProduct({{4}, {512}, {6}, {64}, {1, 2}})
    ->ArgsProduct({{1}, {2048}, {32}, {128}, {1, 2}})
    ->UseRealTime();
BENCHMARK(gram)->ArgsProduct({{2048}, {384, 1024, 4096}, {1, 2}})->UseRealTime();
BENCHMARK(gated_silu)->Args({512, 11008, 1})->UseRealTime();
BENCHMARK(token_nll)->Args({128, 32000, 1})->UseRealTime();

}  // namespace
}  // namespace quern::bench
