#include "kernels/cpu/gradient_ops.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/gradient_rows.h"
#include "kernels/cpu/rotate.h"
#include "kernels/cpu/row_kernels.h"

namespace quern {
namespace {

/// A row of logits becomes the gradient of scale * token_nll.
template <typename T>
void nll_gradient_row(T* row, std::int64_t words, std::int32_t target, float scale) {
  if (target < 0) {
    std::fill_n(row, words, T{0});
    return;
  }
  const double sum = exp_row(row, words, row_max(row, words), row);
  scale_row(row, static_cast<T>(static_cast<double>(scale) / sum), words, row);
  row[target] -= T{scale};
}

}  // namespace

void CpuGradientOps::do_rms_norm(ConstTensorView x, ConstTensorView weight, float epsilon,
                                 ConstTensorView dy, TensorView dx) {
  expect_activation("gradient of rms_norm", {{"x", x}, {"dy", dy}, {"dx", dx}});
  const std::int64_t tokens = x.shape[0];
  const std::int64_t width = x.shape[1];
  with_activation(x.dtype, [&]<typename T>(T) {
    scratch_.reserve(width * static_cast<std::int64_t>(sizeof(T)));
    auto* scales = scratch_.of_thread<T>(0);
    load_elems(weight, 0, width, scales);
#pragma omp parallel for num_threads(threads_) schedule(static) if (x.elems() > kPiece)
    for (std::int64_t t = 0; t < tokens; ++t) {
      const T* row = x.as<T>() + t * width;
      const NormRow<T> norm{row, scales, inverse_norm(row, width, epsilon)};
      norm_gradient_row(norm, dy.as<T>() + t * width, width, dx.as<T>() + t * width);
    }
  });
}

void CpuGradientOps::do_rotate(TensorView dx, ConstTensorView table, std::int64_t head_dim) {
  expect_activation("gradient of rotate", {{"dx", dx}});
  rotate_heads(dx, table, head_dim, -1.0F, threads_);
}

void CpuGradientOps::do_gated_activation(TensorView gate, TensorView up, ConstTensorView dh,
                                         Activation activation) {
  expect_activation("gradient of gated_activation", {{"gate", gate}, {"up", up}, {"dh", dh}});
  const std::int64_t elems = gate.elems();
  with_activation(gate.dtype, [&]<typename T>(T) {
#pragma omp parallel for num_threads(threads_) schedule(static) if (elems > kPiece)
    for (std::int64_t piece = 0; piece < piece_count(elems); ++piece) {
      gate_gradient_row(gate.as<T>() + piece * kPiece, up.as<T>() + piece * kPiece,
                        dh.as<T>() + piece * kPiece, piece_size(elems, piece), activation);
    }
  });
}

void CpuGradientOps::do_token_nll(TensorView logits, ConstTensorView targets, float scale) {
  expect_activation("gradient of token_nll", {{"logits", logits}});
  const std::int64_t tokens = logits.shape[0];
  const std::int64_t words = logits.shape[1];
  with_activation(logits.dtype, [&]<typename T>(T) {
#pragma omp parallel for num_threads(threads_) schedule(static) if (logits.elems() > kPiece)
    for (std::int64_t t = 0; t < tokens; ++t) {
      nll_gradient_row(logits.as<T>() + t * words, words, targets.as<std::int32_t>()[t], scale);
    }
  });
}

}  // namespace quern
