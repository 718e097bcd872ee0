#pragma once

#include <benchmark/benchmark.h>

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

/// Reports `work` per iteration under `name`, per second.
inline void report(benchmark::State& state, const char* name, double work) {
  state.SetLabel(blas_name());
  state.counters[name] = benchmark::Counter(work, benchmark::Counter::kIsIterationInvariantRate,
                                            benchmark::Counter::kIs1000);
}

}  // namespace quern::bench
