#include <benchmark/benchmark.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "kernels/core/float16.h"
#include "kernels/cpu/codebook_solver.h"
#include "kernels/cpu/memory.h"
#include "tests/support/lloyd.h"
#include "tests/support/paths.h"
#include "workers/tensors/tensor_source.h"

namespace quern::bench {
namespace {

constexpr std::int64_t kRows = 16;  // of one iteration

/// Rows of `columns` bf16 weights, and F as heavy-tailed as squared gradients are.
struct Rows {
  std::vector<std::uint16_t> weights;
  std::vector<float> fisher;
};

std::vector<std::uint16_t> gaussian_weights(std::int64_t count) {
  std::mt19937 engine(1);
  std::normal_distribution<float> normal(0.0F, 0.02F);
  std::vector<std::uint16_t> weights(static_cast<std::size_t>(count));
  for (auto& weight : weights) weight = float_to_bf16(normal(engine));
  return weights;
}

/// The weights of a trained module, read on end until there are enough; empty without the folder.
std::vector<std::uint16_t> trained_weights(std::int64_t count) {
  if (test::shared_dir().empty()) return {};
  const TensorSource source(test::shared_dir() / "models" / "llama20m");
  const HostTensor tensor = source.read("model.layers.3.mlp.down_proj.weight");
  const auto stored = tensor.as<std::uint16_t>();
  std::vector<std::uint16_t> weights(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = stored[i % stored.size()];
  return weights;
}

Rows make_rows(std::int64_t columns, bool trained) {
  Rows rows{trained ? trained_weights(kRows * columns) : gaussian_weights(kRows * columns), {}};
  std::mt19937 engine(2);
  std::normal_distribution<float> normal(0.0F, 2.0F);
  rows.fisher.resize(rows.weights.size());
  for (float& f : rows.fisher) f = 1e-6F * std::exp(normal(engine));
  return rows;
}

void report(benchmark::State& state) {
  state.counters["per_row"] =
      benchmark::Counter(static_cast<double>(kRows), benchmark::Counter::kIsIterationInvariantRate |
                                                         benchmark::Counter::kInvert);
}

/// All of cluster(): sorting, the exact optimum, codes.
void exact(benchmark::State& state, bool trained) {
  const std::int64_t columns = state.range(0);
  Rows rows = make_rows(columns, trained);
  if (rows.weights.empty()) return state.SkipWithError("the reference folder is absent");
  CpuMemory memory;
  const auto solver = make_cpu_codebook_solver(memory, 1);
  const Shape shape{kRows, columns};
  const ConstTensorView weight{reinterpret_cast<const std::byte*>(rows.weights.data()), DType::bf16,
                               shape};
  const ConstTensorView fisher{reinterpret_cast<const std::byte*>(rows.fisher.data()), DType::f32,
                               shape};
  const CodebookSpec spec{static_cast<int>(state.range(1)), DType::f32};
  for (auto _ : state) {
    benchmark::DoNotOptimize(solver->cluster(weight, fisher, std::nullopt, spec));
  }
  report(state);
}

/// k-means++ and Lloyd with the settings of SqueezeLLM: one start, 50 iterations at most.
void lloyd(benchmark::State& state, bool trained) {
  const std::int64_t columns = state.range(0);
  const Rows rows = make_rows(columns, trained);
  if (rows.weights.empty()) return state.SkipWithError("the reference folder is absent");
  const auto width = static_cast<std::size_t>(columns);
  std::vector<float> values(width);
  for (auto _ : state) {
    for (std::size_t n = 0; n < kRows; ++n) {
      for (std::size_t k = 0; k < width; ++k)
        values[k] = bf16_to_float(rows.weights[n * width + k]);
      const auto begin = rows.fisher.begin() + static_cast<std::ptrdiff_t>(n * width);
      const std::vector<float> fisher(begin, begin + columns);
      benchmark::DoNotOptimize(test::lloyd(values, fisher, 1 << state.range(1), 0));
    }
  }
  report(state);
}

void row_shapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"columns", "bits"});
  for (const std::int64_t columns : {1024, 4096, 11008, 14336}) {
    for (const std::int64_t bits : {3, 4}) benchmark->Args({columns, bits});
  }
  benchmark->Unit(benchmark::kMillisecond);
}

BENCHMARK_CAPTURE(exact, gaussian, false)->Apply(row_shapes);
BENCHMARK_CAPTURE(exact, trained, true)->Apply(row_shapes);
BENCHMARK_CAPTURE(lloyd, gaussian, false)->Apply(row_shapes);
BENCHMARK_CAPTURE(lloyd, trained, true)->Apply(row_shapes);

/// A module of N x K on 3 bits against H of 2 K random tokens; 2 rounds of 2 sweeps.
void refine(benchmark::State& state) {
  const std::int64_t rows = state.range(0);
  const std::int64_t columns = state.range(1);
  CpuMemory memory;
  const auto solver = make_cpu_codebook_solver(memory, static_cast<int>(state.range(2)));
  const std::vector<std::uint16_t> weights = gaussian_weights(rows * columns);
  const ConstTensorView weight{
      reinterpret_cast<const std::byte*>(weights.data()), DType::bf16, {rows, columns}};
  Tensor fisher = memory.allocate(DType::f32, {rows, columns});
  std::fill_n(fisher.view().as<float>(), rows * columns, 1.0F);
  Tensor sums = memory.allocate(DType::i64, {columns, columns});
  Tensor exponents = memory.allocate(DType::i32, {columns});
  Tensor overflow = memory.allocate(DType::i64, {1});
  memory.clear(exponents.view());
  memory.clear(overflow.view());
  // Positive definite: a decaying correlation between neighbours.
  for (std::int64_t i = 0; i < columns * columns; ++i) {
    const auto distance = static_cast<double>(std::abs(i / columns - i % columns));
    sums.view().as<std::int64_t>()[i] = std::llround(1e9 * std::exp(-0.1 * distance));
  }
  const GramView gram{sums.view(), exponents.view(), overflow.view()};
  const CodebookSpec spec{3, DType::f32};
  const CodebookTensor start = solver->cluster(weight, fisher.view(), std::nullopt, spec);
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        solver->refine(weight, fisher.view(), gram, start, spec, {2, 2, false}));
  }
}

BENCHMARK(refine)
    ->ArgNames({"rows", "columns", "threads"})
    ->Args({1024, 1024, 1})
    ->Args({1024, 1024, 2})
    ->Args({256, 4096, 2})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

}  // namespace
}  // namespace quern::bench
