#include <omp.h>

#include <array>

#include "kernels/cpu/blas.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/layer_ops.h"
#include "kernels/cpu/tiles.h"
#include "kernels/operands.h"

namespace quern {
namespace {

// Edge of the tiles of the output; each is one product over all of K.
constexpr std::int64_t kTile = 256;

void add_bias(const ConstTensorView& bias, const Tile& tile, float* out, std::int64_t stride) {
  std::array<float, kTile> values;
  load_floats(bias, tile.column, tile.columns, values.data());
  for (std::int64_t row = 0; row < tile.rows; ++row) {
    for (std::int64_t i = 0; i < tile.columns; ++i) {
      out[row * stride + i] += values[static_cast<std::size_t>(i)];
    }
  }
}

}  // namespace

void CpuLayerOps::do_linear(ConstTensorView x, ConstTensorView weight,
                            std::optional<ConstTensorView> bias, TensorView out) {
  expect_operands(x.dtype == DType::f32 && out.dtype == DType::f32, "linear",
                  "F32 activations on the CPU", {{"x", x}, {"out", out}});
  const std::int64_t tokens = x.shape[0];
  const std::int64_t inputs = x.shape[1];
  const std::int64_t outputs = out.shape[1];
  const bool ready = weight.dtype == DType::f32;
  if (!ready) scratch_.reserve(kTile * inputs * static_cast<std::int64_t>(sizeof(float)));
  const Tiling tiling{tokens, outputs, kTile};
#pragma omp parallel for num_threads(threads_) schedule(dynamic) if (tiling.count() > 1)
  for (std::int64_t index = 0; index < tiling.count(); ++index) {
    const Tile tile = tiling.at(index);
    const float* panel = weight.as<float>() + tile.column * inputs;
    if (!ready) {
      auto* converted = scratch_.of_thread<float>(omp_get_thread_num());
      load_floats(weight, tile.column * inputs, tile.columns * inputs, converted);
      panel = converted;
    }
    float* target = out.as<float>() + tile.row * outputs + tile.column;
    multiply({tile.rows, tile.columns, inputs}, {x.as<float>() + tile.row * inputs, inputs},
             {panel, inputs, true}, target, outputs);
    if (bias) add_bias(*bias, tile, target, outputs);
  }
}

}  // namespace quern
