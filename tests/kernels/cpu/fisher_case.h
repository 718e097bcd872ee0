#pragma once

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>
#include <vector>

#include "kernels/statistics_ops.h"
#include "tests/kernels/cpu/cpu_ops.h"

namespace quern::test {

inline std::size_t at(std::int64_t index) {
  return static_cast<std::size_t>(index);
}

struct FisherSize {
  std::int64_t sequences, length, outputs, inputs;

  std::int64_t tokens() const { return sequences * length; }
  SequenceCut cut(std::int64_t total) const { return {length, total}; }
};

/// A micro-batch as doubles and as tensors.
struct Batch {
  Batch(CpuOps& cpu, const FisherSize& that, std::vector<double> inputs,
        std::vector<double> gradients, DType dtype = DType::f32)
      : size(that), x(std::move(inputs)), dy(std::move(gradients)) {
    x_tensor = store(cpu.memory, dtype, {size.tokens(), size.inputs}, x);
    dy_tensor = store(cpu.memory, dtype, {size.tokens(), size.outputs}, dy);
  }

  /// Sums over the tokens of one sequence of dy x and of |dy x|.
  std::pair<long double, long double> gradient(std::int64_t sequence, std::int64_t n,
                                               std::int64_t k) const {
    long double sum = 0.0L;
    long double magnitude = 0.0L;
    for (std::int64_t t = sequence * size.length; t < (sequence + 1) * size.length; ++t) {
      const long double term = static_cast<long double>(dy[at(t * size.outputs + n)]) *
                               static_cast<long double>(x[at(t * size.inputs + k)]);
      sum += term;
      magnitude += std::fabs(term);
    }
    return {sum, magnitude};
  }

  long double fisher(std::int64_t n, std::int64_t k) const {
    long double sum = 0.0L;
    for (std::int64_t s = 0; s < size.sequences; ++s) {
      const long double value = gradient(s, n, k).first;
      sum += value * value;
    }
    return sum;
  }

  FisherSize size;
  std::vector<double> x, dy;
  Tensor x_tensor, dy_tensor;
};

inline Batch normal_batch(CpuOps& cpu, const FisherSize& size, unsigned seed,
                          DType dtype = DType::f32) {
  return {cpu, size, normal_values(size.tokens() * size.inputs, seed),
          normal_values(size.tokens() * size.outputs, seed + 100, 1e-4), dtype};
}

/// Small integers times a power of two per column: every partial sum is exact in float.
inline std::vector<double> exact_values(std::int64_t rows, std::int64_t columns, unsigned seed) {
  std::mt19937 engine(seed);
  std::uniform_int_distribution<int> integers(-60, 60);
  std::vector<double> values(at(rows * columns));
  for (std::int64_t i = 0; i < rows * columns; ++i) {
    const std::int64_t column = i % columns;
    const int shift = column % 37 == 5 ? 6 : column % 29 == 7 ? -7 : 0;
    values[at(i)] = std::ldexp(static_cast<double>(integers(engine)), shift - 20);
  }
  return values;
}

inline Batch exact_batch(CpuOps& cpu, const FisherSize& size) {
  return {cpu, size, exact_values(size.tokens(), size.inputs, 1),
          exact_values(size.tokens(), size.outputs, 2)};
}

/// A Fisher accumulation with its tensors, zeroed.
struct Fisher {
  Fisher(CpuOps& ops, std::int64_t outputs, std::int64_t inputs)
      : cpu(ops),
        columns(inputs),
        sums(ops.memory.allocate(DType::i64, {outputs, inputs})),
        exponents(ops.memory.allocate(DType::i32, {outputs})),
        overflow(ops.memory.allocate(DType::i64, {1 + outputs})) {
    clear();
    ops.memory.clear(exponents.view());
  }

  void clear() {
    cpu.memory.clear(sums.view());
    cpu.memory.clear(overflow.view());
  }
  FisherView view() { return {sums.view(), exponents.view(), overflow.view()}; }
  void choose(const Batch& batch, std::int64_t total, int headroom = 2) {
    cpu.statistics.choose_fisher_exponents(batch.x_tensor.view(), batch.dy_tensor.view(),
                                           batch.size.cut(total), headroom, exponents.view());
  }
  void add(const Batch& batch, std::int64_t total) {
    cpu.statistics.accumulate_fisher(batch.x_tensor.view(), batch.dy_tensor.view(),
                                     batch.size.cut(total), view());
  }
  std::int32_t& exponent(std::int64_t n) { return exponents.view().as<std::int32_t>()[n]; }
  std::int64_t& sum(std::int64_t n, std::int64_t k) {
    return sums.view().as<std::int64_t>()[n * columns + k];
  }
  long double unit(std::int64_t n) { return std::ldexp(1.0L, -exponent(n)); }
  long double value(std::int64_t n, std::int64_t k) {
    return static_cast<long double>(sum(n, k)) * unit(n);
  }
  std::int64_t refused() { return *overflow.view().as<std::int64_t>(); }
  std::int64_t burst(std::int64_t n) { return overflow.view().as<std::int64_t>()[1 + n]; }
  /// Whether the sums may be wrong.
  bool overflowed() {
    for (std::int64_t n = 0; n < exponents.shape()[0]; ++n) {
      if (burst(n) >= StatisticsOps::fisher_burst_limit) return true;
    }
    return refused() > 0;
  }

  CpuOps& cpu;
  std::int64_t columns;
  Tensor sums, exponents, overflow;
};

}  // namespace quern::test
