#include <omp.h>

#include <array>
#include <optional>

#include "kernels/cpu/blas.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/layer_ops.h"
#include "kernels/cpu/tiles.h"

namespace quern {
namespace {

// Edge of the tiles of the output; each is one product over all of K.
constexpr std::int64_t kTile = 256;

template <typename T>
void add_bias(const ConstTensorView& bias, const Tile& tile, T* out, std::int64_t stride) {
  std::array<T, kTile> values;
  load_elems(bias, tile.column, tile.columns, values.data());
  for (std::int64_t row = 0; row < tile.rows; ++row) {
    for (std::int64_t i = 0; i < tile.columns; ++i) {
      out[row * stride + i] += values[static_cast<std::size_t>(i)];
    }
  }
}

/// What all tiles of one product share.
struct Linear {
  ConstTensorView x;
  ConstTensorView weight;
  std::optional<ConstTensorView> bias;
  TensorView out;
};

/// `converted`: space for the tile's rows of the weight, unless they have the activations' type.
template <typename T>
void multiply_tile(const Linear& task, const Tile& tile, T* converted) {
  const std::int64_t inputs = task.x.shape[1];
  const std::int64_t outputs = task.out.shape[1];
  const T* panel = converted;
  if (converted == nullptr) {
    panel = task.weight.as<T>() + tile.column * inputs;
  } else {
    load_elems(task.weight, tile.column * inputs, tile.columns * inputs, converted);
  }
  T* target = task.out.as<T>() + tile.row * outputs + tile.column;
  multiply({tile.rows, tile.columns, inputs}, {task.x.as<T>() + tile.row * inputs, inputs},
           {panel, inputs, true}, target, outputs);
  if (task.bias) add_bias(*task.bias, tile, target, outputs);
}

}  // namespace

void CpuLayerOps::do_linear(ConstTensorView x, ConstTensorView weight,
                            std::optional<ConstTensorView> bias, TensorView out) {
  expect_activation("linear", {{"x", x}, {"out", out}});
  const Linear task{x, weight, bias, out};
  const Tiling tiling{out.shape[0], out.shape[1], kTile};
  with_activation(x.dtype, [&]<typename T>(T) {
    const bool ready = weight.dtype == x.dtype;
    if (!ready) scratch_.reserve(kTile * x.shape[1] * static_cast<std::int64_t>(sizeof(T)));
#pragma omp parallel for num_threads(threads_) schedule(dynamic) if (tiling.count() > 1)
    for (std::int64_t index = 0; index < tiling.count(); ++index) {
      multiply_tile<T>(task, tiling.at(index),
                       ready ? nullptr : scratch_.of_thread<T>(omp_get_thread_num()));
    }
  });
}

}  // namespace quern
