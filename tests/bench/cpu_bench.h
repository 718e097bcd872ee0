#pragma once

#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdint>
#include <random>

#include "kernels/cpu/blas.h"
#include "kernels/cpu/gradient_ops.h"
#include "kernels/cpu/layer_ops.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/statistics_ops.h"

namespace quern::bench {

/// The operations on as many threads as the benchmark's last argument says.
struct Cpu {
  explicit Cpu(std::int64_t threads)
      : layers(memory, static_cast<int>(threads)),
        gradients(memory, static_cast<int>(threads)),
        statistics(memory, static_cast<int>(threads)) {
    use_calling_thread_for_blas();
  }

  CpuMemory memory;
  CpuLayerOps layers;
  CpuGradientOps gradients;
  CpuStatisticsOps statistics;
};

inline Tensor random_tensor(Memory& memory, const Shape& shape) {
  Tensor tensor = memory.allocate(DType::f32, shape);
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  auto* values = tensor.view().as<float>();
  for (std::int64_t i = 0; i < shape.elems(); ++i) values[i] = normal(engine);
  return tensor;
}

/// A random weight [outputs, inputs] in the type it is stored in.
inline Tensor random_weight(Cpu& cpu, const Shape& shape, DType dtype) {
  const Tensor weight = random_tensor(cpu.memory, shape);
  Tensor stored = cpu.memory.allocate(dtype, shape);
  cpu.layers.convert(weight.view(), stored.view());
  return stored;
}

/// Of the benchmark's second to fourth arguments: length, heads and their width; causal.
inline AttentionShape attention_shape(const benchmark::State& state) {
  return {.heads = state.range(2),
          .kv_heads = state.range(2),
          .head_dim = state.range(3),
          .sequence_length = state.range(1),
          .scale = 1.0F / std::sqrt(static_cast<float>(state.range(3)))};
}

/// Multiplications and additions of one product over everything that queries see.
inline double attention_flop(const AttentionShape& shape, std::int64_t sequences) {
  const auto pairs = sequences * shape.sequence_length * (shape.sequence_length + 1) / 2;
  return 2.0 * static_cast<double>(pairs * shape.heads * shape.head_dim);
}

/// Reports `work` per iteration under `name`, per second.
inline void report(benchmark::State& state, const char* name, double work) {
  state.SetLabel(blas_name());
  state.counters[name] = benchmark::Counter(work, benchmark::Counter::kIsIterationInvariantRate,
                                            benchmark::Counter::kIs1000);
}

}  // namespace quern::bench
