#include "kernels/cpu/gradient_ops.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/gradient_rows.h"
#include "kernels/cpu/row_kernels.h"

namespace quern {
namespace {

void rotate_head_back(float* dx, const float* cosines, const float* sines, std::int64_t half) {
  for (std::int64_t i = 0; i < half; ++i) {
    const float low = dx[i];
    const float high = dx[i + half];
    dx[i] = low * cosines[i] + high * sines[i];
    dx[i + half] = high * cosines[i] - low * sines[i];
  }
}

}  // namespace

void CpuGradientOps::do_rms_norm(ConstTensorView x, ConstTensorView weight, float epsilon,
                                 ConstTensorView dy, TensorView dx) {
  expect_float("gradient of rms_norm", {{"x", x}, {"dy", dy}, {"dx", dx}});
  const std::int64_t tokens = x.shape[0];
  const std::int64_t width = x.shape[1];
  scratch_.reserve(width * static_cast<std::int64_t>(sizeof(float)));
  auto* scales = scratch_.of_thread<float>(0);
  load_floats(weight, 0, width, scales);
#pragma omp parallel for num_threads(threads_) schedule(static) if (x.elems() > kPiece)
  for (std::int64_t t = 0; t < tokens; ++t) {
    const float* row = x.as<float>() + t * width;
    const float mean = sum_of_squares(row, width) / static_cast<float>(width);
    norm_gradient_row({row, scales, 1.0F / std::sqrt(mean + epsilon)}, dy.as<float>() + t * width,
                      width, dx.as<float>() + t * width);
  }
}

void CpuGradientOps::do_rotate(TensorView dx, ConstTensorView table, std::int64_t head_dim) {
  expect_float("gradient of rotate", {{"dx", dx}});
  const std::int64_t tokens = dx.shape[0];
  const std::int64_t width = dx.shape[1];
  const std::int64_t half = head_dim / 2;
#pragma omp parallel for num_threads(threads_) schedule(static) if (dx.elems() > kPiece)
  for (std::int64_t t = 0; t < tokens; ++t) {
    const float* cosines = table.as<float>() + t % table.shape[0] * head_dim;
    float* row = dx.as<float>() + t * width;
    for (std::int64_t head = 0; head < width; head += head_dim) {
      rotate_head_back(row + head, cosines, cosines + half, half);
    }
  }
}

void CpuGradientOps::do_gated_activation(TensorView gate, TensorView up, ConstTensorView dh,
                                         Activation activation) {
  expect_float("gradient of gated_activation", {{"gate", gate}, {"up", up}, {"dh", dh}});
  const std::int64_t elems = gate.elems();
#pragma omp parallel for num_threads(threads_) schedule(static) if (elems > kPiece)
  for (std::int64_t piece = 0; piece < piece_count(elems); ++piece) {
    gate_gradient_row(gate.as<float>() + piece * kPiece, up.as<float>() + piece * kPiece,
                      dh.as<float>() + piece * kPiece, piece_size(elems, piece), activation);
  }
}

void CpuGradientOps::do_token_nll(TensorView logits, ConstTensorView targets, float scale) {
  expect_float("gradient of token_nll", {{"logits", logits}});
  const std::int64_t tokens = logits.shape[0];
  const std::int64_t words = logits.shape[1];
#pragma omp parallel for num_threads(threads_) schedule(static) if (logits.elems() > kPiece)
  for (std::int64_t t = 0; t < tokens; ++t) {
    float* row = logits.as<float>() + t * words;
    const std::int32_t target = targets.as<std::int32_t>()[t];
    if (target < 0) {
      std::fill_n(row, words, 0.0F);
      continue;
    }
    const double sum = exp_row(row, words, row_max(row, words), row);
    scale_row(row, static_cast<float>(static_cast<double>(scale) / sum), words, row);
    row[target] -= scale;
  }
}

}  // namespace quern
