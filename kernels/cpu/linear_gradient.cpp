#include <omp.h>

#include <algorithm>

#include "kernels/cpu/blas.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/gradient_ops.h"
#include "kernels/cpu/tiles.h"

namespace quern {
namespace {

constexpr std::int64_t kTile = 256;
// Rows of the weight in one product: bounds a converted panel whatever the vocabulary's size. Plain
// weights are cut the same way, so that their type does not show in the bits.
constexpr std::int64_t kDepth = 1024;

/// What all tiles of one product share.
struct LinearGradient {
  ConstTensorView dy;
  ConstTensorView weight;
  TensorView dx;
};

/// Rows first .. first + count of the weight, as far as the tile needs them.
BlasOperand weight_panel(const ConstTensorView& weight, std::int64_t first, std::int64_t count,
                         const Tile& tile, float* converted) {
  const std::int64_t width = weight.shape[1];
  const std::int64_t begin = first * width + tile.column;
  if (weight.dtype == DType::f32) return {weight.as<float>() + begin, width};
  for (std::int64_t i = 0; i < count; ++i) {
    load_floats(weight, begin + i * width, tile.columns, converted + i * tile.columns);
  }
  return {converted, tile.columns};
}

void multiply_tile(const LinearGradient& task, const Tile& tile, float* converted) {
  const std::int64_t outputs = task.dy.shape[1];
  const std::int64_t inputs = task.dx.shape[1];
  float* target = task.dx.as<float>() + tile.row * inputs + tile.column;
  for (std::int64_t first = 0; first < outputs; first += kDepth) {
    const std::int64_t count = std::min(kDepth, outputs - first);
    multiply({.rows = tile.rows, .columns = tile.columns, .depth = count, .accumulate = first > 0},
             {task.dy.as<float>() + tile.row * outputs + first, outputs},
             weight_panel(task.weight, first, count, tile, converted), target, inputs);
  }
}

}  // namespace

void CpuGradientOps::do_linear(ConstTensorView dy, ConstTensorView weight, TensorView dx) {
  expect_float("gradient of linear", {{"dy", dy}, {"dx", dx}});
  if (weight.dtype != DType::f32) {
    scratch_.reserve(std::min(kDepth, weight.shape[0]) * kTile *
                     static_cast<std::int64_t>(sizeof(float)));
  }
  const LinearGradient task{dy, weight, dx};
  const Tiling tiling{dx.shape[0], dx.shape[1], kTile};
#pragma omp parallel for num_threads(threads_) schedule(dynamic) if (tiling.count() > 1)
  for (std::int64_t index = 0; index < tiling.count(); ++index) {
    auto* converted =
        weight.dtype == DType::f32 ? nullptr : scratch_.of_thread<float>(omp_get_thread_num());
    multiply_tile(task, tiling.at(index), converted);
  }
}

}  // namespace quern
