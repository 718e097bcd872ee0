#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <span>
#include <thread>
#include <vector>

#include "kernels/core/float16.h"
#include "kernels/cuda_backend.h"
#include "workers/parallel.h"

namespace quern::bench {
namespace {

constexpr std::int64_t kTokens = 4 * 2048;  // of one micro-batch

std::unique_ptr<Backend> open(benchmark::State& state) {
  if (cuda_device_count() > 0) return make_cuda_backend({});
  state.SkipWithError("no CUDA device on this machine");
  return nullptr;
}

/// Normal deviates, made by all cores: each piece of the values has a sequence of its own.
template <typename T, typename FromDeviate>
void fill_normally(std::span<T> values, unsigned seed, const FromDeviate& from_deviate) {
  constexpr std::size_t kPiece = std::size_t{1} << 20;
  run_parallel((values.size() + kPiece - 1) / kPiece,
               static_cast<int>(std::thread::hardware_concurrency()), [&](std::size_t piece) {
                 std::seed_seq sequence{seed, static_cast<unsigned>(piece)};
                 std::mt19937 engine(sequence);
                 std::normal_distribution<float> normal;
                 const std::size_t begin = piece * kPiece;
                 const std::size_t count = std::min(kPiece, values.size() - begin);
                 for (T& value : values.subspan(begin, count)) value = from_deviate(normal(engine));
               });
}

/// Normal bf16 values.
Tensor normal_tensor(Backend& backend, const Shape& shape, float scale, unsigned seed) {
  HostTensor host(DType::bf16, shape);
  fill_normally(host.as<std::uint16_t>(), seed,
                [scale](float deviate) { return float_to_bf16(scale * deviate); });
  return backend.memory().to_device(host);
}

/// F as heavy-tailed as squared gradients are.
Tensor heavy_tensor(Backend& backend, const Shape& shape) {
  HostTensor host(DType::f32, shape);
  fill_normally(host.as<float>(), 2,
                [](float deviate) { return 1e-6F * std::exp(2.0F * deviate); });
  return backend.memory().to_device(host);
}

/// H of one micro-batch.
struct Gram {
  Gram(Backend& backend, const Tensor& x)
      : sums(backend.memory().allocate(DType::i64, {x.shape()[1], x.shape()[1]})),
        exponents(backend.memory().allocate(DType::i32, {x.shape()[1]})),
        overflow(backend.memory().allocate(DType::i64, {1})) {
    backend.memory().clear(sums.view());
    backend.memory().clear(overflow.view());
    backend.statistics().choose_gram_exponents(x.view(), 64 * kTokens, 2, exponents.view());
  }
  GramView view() { return {sums.view(), exponents.view(), overflow.view()}; }

  Tensor sums, exponents, overflow;
};

Gram gram_of_inputs(Backend& backend, std::int64_t columns) {
  const Tensor x = normal_tensor(backend, {kTokens, columns}, 1.0F, 1);
  Gram gram(backend, x);
  backend.statistics().accumulate_gram(x.view(), 64 * kTokens, gram.view());
  return gram;
}

/// Rows of a module that fall to the first of `ranks` ranks.
std::int64_t first_share(std::int64_t rows, std::int64_t ranks) {
  const std::int64_t slice = Solver::row_slice(rows);
  return std::min(rows, (rows / ranks + slice - 1) / slice * slice);
}

void report(benchmark::State& state, const char* name, double work) {
  state.counters[name] = benchmark::Counter(work, benchmark::Counter::kIsIterationInvariantRate,
                                            benchmark::Counter::kIs1000);
}

void accumulate_gram(benchmark::State& state) {
  const auto backend = open(state);
  if (!backend) return;
  const std::int64_t columns = state.range(0);
  const Tensor x = normal_tensor(*backend, {kTokens, columns}, 1.0F, 1);
  Gram gram(*backend, x);
  for (auto _ : state) {
    backend->statistics().accumulate_gram(x.view(), 64 * kTokens, gram.view());
    backend->memory().synchronize();
  }
  report(state, "flop", static_cast<double>(kTokens * columns * columns));
}

void accumulate_fisher(benchmark::State& state) {
  const auto backend = open(state);
  if (!backend) return;
  const std::int64_t rows = state.range(0);
  const std::int64_t columns = state.range(1);
  const Tensor x = normal_tensor(*backend, {kTokens, columns}, 1.0F, 1);
  const Tensor dy = normal_tensor(*backend, {kTokens, rows}, 1e-3F, 2);
  Tensor sums = backend->memory().allocate(DType::i64, {rows, columns});
  Tensor exponents = backend->memory().allocate(DType::i32, {rows});
  Tensor overflow = backend->memory().allocate(DType::i64, {1 + rows});
  backend->memory().clear(sums.view());
  backend->memory().clear(overflow.view());
  const SequenceCut cut{2048, 128};
  backend->statistics().choose_fisher_exponents(x.view(), dy.view(), cut, 2, exponents.view());
  for (auto _ : state) {
    backend->statistics().accumulate_fisher(x.view(), dy.view(), cut,
                                            {sums.view(), exponents.view(), overflow.view()});
    backend->memory().synchronize();
  }
  report(state, "flop", 2.0 * static_cast<double>(kTokens * rows * columns));
}

/// Several H of one size at once.
void factorise(benchmark::State& state) {
  const auto backend = open(state);
  if (!backend) return;
  Gram gram = gram_of_inputs(*backend, state.range(0));
  const std::vector<HessianTask> tasks(static_cast<std::size_t>(state.range(1)),
                                       {"m", gram.view(), ActOrder::none, 128, Damping{}});
  for (auto _ : state) {
    benchmark::DoNotOptimize(backend->solver().factorise(tasks));
    backend->memory().synchronize();
  }
  report(state, "factors", static_cast<double>(state.range(1)));
}

/// `modules` modules of one input on the first of `ranks` ranks that share their rows.
void gptq(benchmark::State& state) {
  const auto backend = open(state);
  if (!backend) return;
  const std::int64_t rows = state.range(0);
  const std::int64_t columns = state.range(1);
  const auto count = static_cast<std::size_t>(state.range(3));
  const Tensor weight = normal_tensor(*backend, {rows, columns}, 0.02F, 3);
  Gram gram = gram_of_inputs(*backend, columns);
  const HessianFactor factor =
      backend->solver().factorise({"m", gram.view(), ActOrder::none, 128, Damping{}});
  const std::int64_t share = first_share(rows, state.range(4));
  const GridSpec grid{static_cast<int>(state.range(2)), 128, true, ScaleSearch::weighted};
  const std::vector<GridModule> modules(count, {"m", weight.view(), grid, {0, share}});
  for (auto _ : state) {
    benchmark::DoNotOptimize(backend->solver().gptq(modules, factor));
    backend->memory().synchronize();
  }
  report(state, "weights", static_cast<double>(state.range(3) * share * columns));
}

/// On the first of `ranks` ranks that share the rows of a module.
void quadratic_error(benchmark::State& state) {
  const auto backend = open(state);
  if (!backend) return;
  const std::int64_t rows = first_share(state.range(0), state.range(2));
  const std::int64_t columns = state.range(1);
  const Tensor weight = normal_tensor(*backend, {rows, columns}, 0.02F, 3);
  Tensor quantized = backend->memory().allocate(DType::f32, {rows, columns});
  backend->layers().convert(weight.view(), quantized.view());
  Gram gram = gram_of_inputs(*backend, columns);
  Tensor errors = backend->memory().allocate(DType::f64, {rows, 2});
  for (auto _ : state) {
    backend->solver().quadratic_error(weight.view(), quantized.view(), gram.view(), errors.view());
    backend->memory().synchronize();
  }
  report(state, "weights", static_cast<double>(rows * columns));
}

void cluster(benchmark::State& state) {
  const auto backend = open(state);
  if (!backend) return;
  const std::int64_t rows = state.range(0);
  const std::int64_t columns = state.range(1);
  const Tensor weight = normal_tensor(*backend, {rows, columns}, 0.02F, 3);
  const Tensor fisher = heavy_tensor(*backend, {rows, columns});
  const CodebookSpec spec{static_cast<int>(state.range(2)), DType::f32};
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        backend->codebooks().cluster(weight.view(), fisher.view(), std::nullopt, spec));
    backend->memory().synchronize();
  }
  report(state, "rows", static_cast<double>(rows));
}

void refine(benchmark::State& state) {
  const auto backend = open(state);
  if (!backend) return;
  const Shape shape{state.range(0), state.range(1)};
  const Tensor weight = normal_tensor(*backend, shape, 0.02F, 3);
  const Tensor fisher = heavy_tensor(*backend, shape);
  Gram gram = gram_of_inputs(*backend, shape[1]);
  const CodebookSpec spec{static_cast<int>(state.range(2)), DType::f32};
  const CodebookTensor start =
      backend->codebooks().cluster(weight.view(), fisher.view(), std::nullopt, spec);
  for (auto _ : state) {
    benchmark::DoNotOptimize(backend->codebooks().refine(weight.view(), fisher.view(), gram.view(),
                                                         start, spec, {1, 4, false}));
    backend->memory().synchronize();
  }
}

void widths(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgName("columns")->Arg(2048)->Arg(4096)->Arg(7168)->Arg(11008);
  benchmark->Unit(benchmark::kMillisecond)->UseRealTime();
}

void factors(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"columns", "at_once"});
  for (const std::int64_t columns : {2048, 4096, 7168, 11008}) {
    const auto most = static_cast<std::int64_t>(cuda_factors_at_once(columns));
    benchmark->Args({columns, 1});
    if (most > 1) benchmark->Args({columns, most});
  }
  benchmark->Unit(benchmark::kMillisecond)->UseRealTime();
}

/// LLaMA-7B's modules and those of a DeepSeek-V3 expert.
const std::vector<std::vector<std::int64_t>> kShapes = {
    {4096, 4096}, {11008, 4096}, {4096, 11008}, {2048, 7168}, {7168, 2048}};

void modules(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"rows", "columns", "bits"});
  for (const auto& shape : kShapes) {
    for (const std::int64_t bits : {3, 4}) benchmark->Args({shape[0], shape[1], bits});
  }
  benchmark->Unit(benchmark::kMillisecond)->UseRealTime();
}

/// Each of them alone, and those of one input together, alone and on one of four ranks.
void inputs(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"rows", "columns", "bits", "modules", "ranks"});
  for (const auto& shape : kShapes) {
    for (const std::int64_t bits : {3, 4}) benchmark->Args({shape[0], shape[1], bits, 1, 1});
  }
  for (const std::int64_t ranks : {1, 4}) {
    benchmark->Args({4096, 4096, 4, 3, ranks});
    benchmark->Args({11008, 4096, 4, 2, ranks});
    benchmark->Args({4096, 11008, 4, 1, ranks});
    benchmark->Args({2048, 7168, 4, 2, ranks});
  }
  benchmark->Unit(benchmark::kMillisecond)->UseRealTime();
}

void shared_modules(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"rows", "columns", "ranks"});
  for (const auto& shape : kShapes) {
    for (const std::int64_t ranks : {1, 4}) benchmark->Args({shape[0], shape[1], ranks});
  }
  benchmark->Unit(benchmark::kMillisecond)->UseRealTime();
}

BENCHMARK(accumulate_gram)->Apply(widths);
BENCHMARK(factorise)->Apply(factors);
BENCHMARK(accumulate_fisher)->Apply(modules);
BENCHMARK(quadratic_error)->Apply(shared_modules);
BENCHMARK(gptq)->Apply(inputs);
BENCHMARK(cluster)->Apply(modules);
BENCHMARK(refine)
    ->ArgNames({"rows", "columns", "bits"})
    ->Args({4096, 4096, 3})
    ->Args({4096, 4096, 4})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

}  // namespace
}  // namespace quern::bench
