#include "tests/bench/cpu_bench.h"

namespace quern::bench {
namespace {

void linear_gradient(benchmark::State& state, DType weight_type) {
  const std::int64_t tokens = state.range(0);
  const std::int64_t outputs = state.range(1);
  const std::int64_t inputs = state.range(2);
  Cpu cpu(state.range(3));
  const Tensor dy = random_tensor(cpu.memory, {tokens, outputs});
  const Tensor weight = random_weight(cpu, {outputs, inputs}, weight_type);
  Tensor dx = cpu.memory.allocate(DType::f32, {tokens, inputs});
  for (auto _ : state) cpu.gradients.linear(dy.view(), weight.view(), dx.view());
  report(state, "flop", 2.0 * static_cast<double>(tokens * outputs * inputs));
}

void attention_gradient(benchmark::State& state) {
  const std::int64_t sequences = state.range(0);
  const AttentionShape shape = attention_shape(state);
  Cpu cpu(state.range(4));
  const Shape dims{sequences * shape.sequence_length, shape.heads * shape.head_dim};
  const Tensor q = random_tensor(cpu.memory, dims);
  const Tensor k = random_tensor(cpu.memory, dims);
  const Tensor v = random_tensor(cpu.memory, dims);
  const Tensor dy = random_tensor(cpu.memory, dims);
  Tensor out = cpu.memory.allocate(DType::f32, dims);
  cpu.layers.attention(q.view(), k.view(), v.view(), shape, out.view());
  Tensor dq = cpu.memory.allocate(DType::f32, dims);
  Tensor dk = cpu.memory.allocate(DType::f32, dims);
  Tensor dv = cpu.memory.allocate(DType::f32, dims);
  for (auto _ : state) {
    cpu.gradients.attention({q.view(), k.view(), v.view(), out.view()}, dy.view(), shape,
                            {dq.view(), dk.view(), dv.view()});
  }
  report(state, "flop", 5.0 * attention_flop(shape, sequences));
}

void fisher(benchmark::State& state) {
  const std::int64_t sequences = state.range(0);
  const SequenceCut cut{.sequence_length = state.range(1), .total_sequences = 1024 * sequences};
  const std::int64_t outputs = state.range(2);
  const std::int64_t inputs = state.range(3);
  Cpu cpu(state.range(4));
  const std::int64_t tokens = sequences * cut.sequence_length;
  const Tensor x = random_tensor(cpu.memory, {tokens, inputs});
  const Tensor dy = random_tensor(cpu.memory, {tokens, outputs});
  Tensor sums = cpu.memory.allocate(DType::i64, {outputs, inputs});
  Tensor exponents = cpu.memory.allocate(DType::i32, {outputs});
  Tensor overflow = cpu.memory.allocate(DType::i64, {1 + outputs});
  cpu.memory.clear(overflow.view());
  cpu.statistics.choose_fisher_exponents(x.view(), dy.view(), cut, 6, exponents.view());
  const FisherView view{sums.view(), exponents.view(), overflow.view()};
  for (auto _ : state) {
    state.PauseTiming();
    cpu.memory.clear(sums.view());  // however long this runs, the sums cannot wrap
    state.ResumeTiming();
    cpu.statistics.accumulate_fisher(x.view(), dy.view(), cut, view);
  }
  report(state, "flop", 2.0 * static_cast<double>(tokens * outputs * inputs));
}

void rms_norm_gradient(benchmark::State& state) {
  Cpu cpu(state.range(2));
  const Shape dims{state.range(0), state.range(1)};
  const Tensor x = random_tensor(cpu.memory, dims);
  const Tensor weight = random_tensor(cpu.memory, {state.range(1)});
  Tensor dx = cpu.memory.allocate(DType::f32, dims);
  for (auto _ : state) {
    cpu.gradients.rms_norm(x.view(), weight.view(), 1e-5F, x.view(), dx.view());
  }
  report(state, "elements", static_cast<double>(dims.elems()));
}

void gated_silu_gradient(benchmark::State& state) {
  Cpu cpu(state.range(2));
  const Shape dims{state.range(0), state.range(1)};
  const Tensor x = random_tensor(cpu.memory, dims);
  Tensor gate = cpu.memory.allocate(DType::f32, dims);
  Tensor up = cpu.memory.allocate(DType::f32, dims);
  for (auto _ : state) {
    state.PauseTiming();
    cpu.memory.copy(x.view(), gate.view());
    cpu.memory.copy(x.view(), up.view());
    state.ResumeTiming();
    cpu.gradients.gated_activation(gate.view(), up.view(), x.view(), Activation::silu);
  }
  report(state, "elements", static_cast<double>(dims.elems()));
}

void token_nll_gradient(benchmark::State& state) {
  Cpu cpu(state.range(2));
  const Tensor values = random_tensor(cpu.memory, {state.range(0), state.range(1)});
  Tensor logits = cpu.memory.allocate(DType::f32, values.shape());
  Tensor targets = cpu.memory.allocate(DType::i32, {state.range(0)});
  cpu.memory.clear(targets.view());
  for (auto _ : state) {
    state.PauseTiming();
    cpu.memory.copy(values.view(), logits.view());
    state.ResumeTiming();
    cpu.gradients.token_nll(logits.view(), targets.view(), 1.0F);
  }
  report(state, "elements", static_cast<double>(values.shape().elems()));
}

void linear_shapes(benchmark::internal::Benchmark* benchmark) {
  for (const std::int64_t threads : {1, 2}) {
    benchmark->Args({512, 1024, 384, threads})->Args({512, 4096, 4096, threads});
  }
}

BENCHMARK_CAPTURE(linear_gradient, f32, DType::f32)->Apply(linear_shapes)->UseRealTime();
BENCHMARK_CAPTURE(linear_gradient, bf16, DType::bf16)->Apply(linear_shapes)->UseRealTime();
BENCHMARK(attention_gradient)
    ->ArgsProduct({{4}, {512}, {6}, {64}, {1, 2}})
    ->ArgsProduct({{1}, {2048}, {32}, {128}, {1, 2}})
    ->UseRealTime();
BENCHMARK(fisher)
    ->ArgsProduct({{4}, {512}, {1024}, {384}, {1, 2}})
    ->ArgsProduct({{1}, {2048}, {4096}, {4096}, {1, 2}})
    ->UseRealTime();
BENCHMARK(rms_norm_gradient)->Args({512, 4096, 1})->UseRealTime();
BENCHMARK(gated_silu_gradient)->Args({512, 11008, 1})->UseRealTime();
BENCHMARK(token_nll_gradient)->Args({128, 32000, 1})->UseRealTime();

}  // namespace
}  // namespace quern::bench
