#pragma once

#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include "kernels/core/float16.h"
#include "kernels/cpu/blas.h"
#include "kernels/cpu/gradient_ops.h"
#include "kernels/cpu/layer_ops.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/statistics_ops.h"

namespace quern::test {

/// Half a unit in the last place of 1 in float: the error of one rounding.
inline constexpr double kRounding = 0x1p-24;

/// The CPU's operations without the solver.
struct CpuOps {
  explicit CpuOps(int threads = 1)
      : layers(memory, threads), gradients(memory, threads), statistics(memory, threads) {
    use_calling_thread_for_blas();
  }

  CpuMemory memory;
  CpuLayerOps layers;
  CpuGradientOps gradients;
  CpuStatisticsOps statistics;
};

inline std::vector<double> normal_values(std::int64_t count, unsigned seed, double scale = 1.0) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal(0.0, scale);
  std::vector<double> values(static_cast<std::size_t>(count));
  for (double& value : values) value = normal(engine);
  return values;
}

/// Stores the values, rounded to dtype, through float; replaces them by what was stored.
inline Tensor store(Memory& memory, DType dtype, const Shape& shape, std::vector<double>& values) {
  Tensor tensor = memory.allocate(dtype, shape);
  const TensorView view = tensor.view();
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto narrow = static_cast<float>(values[i]);
    switch (dtype) {
      case DType::f64:
        view.as<double>()[i] = values[i];
        continue;
      case DType::f32:
        values[i] = view.as<float>()[i] = narrow;
        continue;
      case DType::f16:
        values[i] = f16_to_float(view.as<std::uint16_t>()[i] = float_to_f16(narrow));
        continue;
      default:
        values[i] = bf16_to_float(view.as<std::uint16_t>()[i] = float_to_bf16(narrow));
    }
  }
  return tensor;
}

template <typename T>
Tensor store_integers(Memory& memory, DType dtype, const std::vector<T>& values) {
  Tensor tensor = memory.allocate(dtype, {static_cast<std::int64_t>(values.size())});
  std::memcpy(tensor.view().data, values.data(), values.size() * sizeof(T));
  return tensor;
}

inline std::vector<std::byte> bytes_of(ConstTensorView view) {
  return {view.data, view.data + view.bytes()};
}

/// Runs `compute` with 1, 2, 3 and 8 threads; true if all returned the same bytes.
inline bool same_bytes_on_any_threads(
    const std::function<std::vector<std::byte>(CpuOps&)>& compute) {
  CpuOps single(1);
  const std::vector<std::byte> expected = compute(single);
  for (const int threads : {2, 3, 8}) {
    CpuOps several(threads);
    if (compute(several) != expected) return false;
  }
  return true;
}

}  // namespace quern::test
