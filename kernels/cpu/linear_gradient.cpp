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

/// Rows first .. first + count of the weight, as far as the tile needs them. `converted`: space for
/// them, unless they have the activations' type.
template <typename T>
BlasOperand<T> weight_panel(const ConstTensorView& weight, std::int64_t first, std::int64_t count,
                            const Tile& tile, T* converted) {
  const std::int64_t width = weight.shape[1];
  const std::int64_t begin = first * width + tile.column;
  if (converted == nullptr) return {weight.as<T>() + begin, width};
  for (std::int64_t i = 0; i < count; ++i) {
    load_elems(weight, begin + i * width, tile.columns, converted + i * tile.columns);
  }
  return {converted, tile.columns};
}

template <typename T>
void multiply_tile(const LinearGradient& task, const Tile& tile, T* converted) {
  const std::int64_t outputs = task.dy.shape[1];
  const std::int64_t inputs = task.dx.shape[1];
  T* target = task.dx.as<T>() + tile.row * inputs + tile.column;
  for (std::int64_t first = 0; first < outputs; first += kDepth) {
    const std::int64_t count = std::min(kDepth, outputs - first);
    multiply({.rows = tile.rows, .columns = tile.columns, .depth = count, .accumulate = first > 0},
             {task.dy.as<T>() + tile.row * outputs + first, outputs},
             weight_panel(task.weight, first, count, tile, converted), target, inputs);
  }
}

}  // namespace

void CpuGradientOps::do_linear(ConstTensorView dy, ConstTensorView weight, TensorView dx) {
  expect_activation("gradient of linear", {{"dy", dy}, {"dx", dx}});
  const LinearGradient task{dy, weight, dx};
  const Tiling tiling{dx.shape[0], dx.shape[1], kTile};
  with_activation(dy.dtype, [&]<typename T>(T) {
    const bool ready = weight.dtype == dy.dtype;
    if (!ready) {
      scratch_.reserve(std::min(kDepth, weight.shape[0]) * kTile *
                       static_cast<std::int64_t>(sizeof(T)));
    }
#pragma omp parallel for num_threads(threads_) schedule(dynamic) if (tiling.count() > 1)
    for (std::int64_t index = 0; index < tiling.count(); ++index) {
      multiply_tile<T>(task, tiling.at(index),
                       ready ? nullptr : scratch_.of_thread<T>(omp_get_thread_num()));
    }
  });
}

}  // namespace quern
