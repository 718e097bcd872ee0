#include "kernels/cpu/layer_ops.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "kernels/core/fingerprint.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/rotate.h"
#include "kernels/cpu/row_kernels.h"

namespace quern {
namespace {

std::int64_t count_nonfinite_piece(const ConstTensorView& x, std::int64_t begin,
                                   std::int64_t count) {
  std::int64_t found = 0;
  if (x.dtype == DType::f64) {
    const double* values = x.as<double>() + begin;
    for (std::int64_t i = 0; i < count; ++i) found += std::isfinite(values[i]) ? 0 : 1;
    return found;
  }
  std::array<float, 512> floats;
  constexpr auto kStep = static_cast<std::int64_t>(floats.size());
  for (std::int64_t at = 0; at < count; at += kStep) {
    const std::int64_t step = std::min(kStep, count - at);
    load_elems(x, begin + at, step, floats.data());
    found += std::count_if(floats.begin(), floats.begin() + step,
                           [](float value) { return !std::isfinite(value); });
  }
  return found;
}

}  // namespace

void CpuLayerOps::do_convert(ConstTensorView in, TensorView out) {
  const std::int64_t elems = in.elems();
#pragma omp parallel for num_threads(threads_) schedule(static) if (elems > kPiece)
  for (std::int64_t piece = 0; piece < piece_count(elems); ++piece) {
    convert_elems(in, out, piece * kPiece, piece_size(elems, piece));
  }
}

void CpuLayerOps::do_count_nonfinite(ConstTensorView x, TensorView count) {
  const std::int64_t elems = x.elems();
  std::int64_t found = 0;
#pragma omp parallel for num_threads(threads_) reduction(+ : found) if (elems > kPiece)
  for (std::int64_t piece = 0; piece < piece_count(elems); ++piece) {
    found += count_nonfinite_piece(x, piece * kPiece, piece_size(elems, piece));
  }
  *count.as<std::int64_t>() += found;
}

void CpuLayerOps::do_fingerprint(ConstTensorView x, TensorView out) {
  const std::int64_t elems = x.elems();
  const auto* values = x.as<float>();
  std::uint64_t sum = 0;
#pragma omp parallel for num_threads(threads_) reduction(+ : sum) if (elems > kPiece)
  for (std::int64_t i = 0; i < elems; ++i) {
    sum +=
        fingerprint_share(static_cast<std::uint64_t>(i), std::bit_cast<std::uint32_t>(values[i]));
  }
  *out.as<std::int64_t>() = std::bit_cast<std::int64_t>(sum);
}

void CpuLayerOps::do_embed(ConstTensorView table, ConstTensorView ids, TensorView out) {
  expect_activation("embed", {{"out", out}});
  const std::int64_t width = table.shape[1];
  const std::int64_t tokens = ids.elems();
  with_activation(out.dtype, [&]<typename T>(T) {
#pragma omp parallel for num_threads(threads_) schedule(static) if (out.elems() > kPiece)
    for (std::int64_t t = 0; t < tokens; ++t) {
      load_elems(table, ids.as<std::int32_t>()[t] * width, width, out.as<T>() + t * width);
    }
  });
}

void CpuLayerOps::do_rms_norm(ConstTensorView x, ConstTensorView weight, float epsilon,
                              TensorView out) {
  expect_activation("rms_norm", {{"x", x}, {"out", out}});
  const std::int64_t tokens = x.shape[0];
  const std::int64_t width = x.shape[1];
  with_activation(x.dtype, [&]<typename T>(T) {
    scratch_.reserve(width * static_cast<std::int64_t>(sizeof(T)));
    auto* scales = scratch_.of_thread<T>(0);
    load_elems(weight, 0, width, scales);
#pragma omp parallel for num_threads(threads_) schedule(static) if (x.elems() > kPiece)
    for (std::int64_t t = 0; t < tokens; ++t) {
      const T* from = x.as<T>() + t * width;
      T* to = out.as<T>() + t * width;
      const T inverse = inverse_norm(from, width, epsilon);
      for (std::int64_t i = 0; i < width; ++i) to[i] = from[i] * inverse * scales[i];
    }
  });
}

void CpuLayerOps::do_rotate(TensorView x, ConstTensorView table, std::int64_t head_dim) {
  expect_activation("rotate", {{"x", x}});
  rotate_heads(x, table, head_dim, 1.0F, threads_);
}

void CpuLayerOps::do_gated_activation(TensorView gate, ConstTensorView up, Activation activation) {
  expect_activation("gated_activation", {{"gate", gate}, {"up", up}});
  const std::int64_t elems = gate.elems();
  with_activation(gate.dtype, [&]<typename T>(T) {
#pragma omp parallel for num_threads(threads_) schedule(static) if (elems > kPiece)
    for (std::int64_t piece = 0; piece < piece_count(elems); ++piece) {
      gate_row(gate.as<T>() + piece * kPiece, up.as<T>() + piece * kPiece, piece_size(elems, piece),
               activation);
    }
  });
}

void CpuLayerOps::do_add(TensorView x, ConstTensorView delta) {
  expect_activation("add", {{"x", x}, {"delta", delta}});
  const std::int64_t elems = x.elems();
  with_activation(x.dtype, [&]<typename T>(T) {
    auto* sums = x.as<T>();
    const auto* terms = delta.as<T>();
#pragma omp parallel for simd num_threads(threads_) schedule(static) if (elems > kPiece)
    for (std::int64_t i = 0; i < elems; ++i) sums[i] += terms[i];
  });
}

void CpuLayerOps::do_token_nll(ConstTensorView logits, ConstTensorView targets, TensorView nll) {
  expect_activation("token_nll", {{"logits", logits}});
  const std::int64_t tokens = logits.shape[0];
  const std::int64_t words = logits.shape[1];
  with_activation(logits.dtype, [&]<typename T>(T) {
#pragma omp parallel for num_threads(threads_) schedule(static) if (logits.elems() > kPiece)
    for (std::int64_t t = 0; t < tokens; ++t) {
      const T* row = logits.as<T>() + t * words;
      const std::int32_t target = targets.as<std::int32_t>()[t];
      double loss = 0.0;
      if (target >= 0) {
        const T largest = row_max(row, words);
        loss =
            std::log(exp_row_sum(row, words, largest)) + static_cast<double>(largest) - row[target];
      }
      nll.as<float>()[t] = static_cast<float>(loss);
    }
  });
}

}  // namespace quern
