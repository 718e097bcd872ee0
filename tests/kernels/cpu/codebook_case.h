#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/cpu/codebook_solver.h"
#include "kernels/cpu/memory.h"
#include "tests/kernels/cpu/cpu_ops.h"
#include "tests/kernels/cpu/solver_case.h"

namespace quern::test {

/// Weights and F of a module, as tensors and as the doubles that they hold.
struct CodebookCase {
  Tensor weight;
  Tensor fisher;
  Matrix w;
  Matrix f;
};

inline CodebookCase make_case(Memory& memory, DType dtype, Matrix w, Matrix f) {
  CodebookCase made;
  made.weight = store(memory, dtype, {w.rows, w.columns}, w.values);
  made.fisher = store(memory, DType::f32, {f.rows, f.columns}, f.values);
  made.w = std::move(w);
  made.f = std::move(f);
  return made;
}

/// Gaussian weights with heavy tails, F as heavy-tailed as squared gradients are.
inline CodebookCase random_case(Memory& memory, DType dtype, std::int64_t rows,
                                std::int64_t columns, unsigned seed) {
  Matrix w = random_matrix(rows, columns, seed, 0.02);
  const Matrix tail = random_matrix(rows, columns, seed + 1);
  Matrix f = random_matrix(rows, columns, seed + 2, 2.0);
  for (std::size_t i = 0; i < w.values.size(); ++i) {
    w.values[i] *= 1.0 + 0.3 * tail.values[i] * tail.values[i];
    f.values[i] = 1e-6 * std::exp(f.values[i]);
  }
  return make_case(memory, dtype, std::move(w), std::move(f));
}

/// The weights that a codebook stands for, by the definition of the format.
struct Decoded {
  Matrix values;
  Matrix outlier;  ///< 1 at outliers
  std::int64_t outliers = 0;
};
Decoded decode(const CodebookTensor& quantized);

/// Everything the format promises: types, ascending tables of the type, codes below 2^bits, a
/// sound sparse part whose codes are nearest 0, and for 16-bit weights table + vals == weight.
void expect_sound(const CodebookCase& module, const CodebookTensor& quantized,
                  const CodebookSpec& spec);

/// sum F (w - q)^2 by the definition.
double weighted_error_of(const CodebookCase& module, const CodebookTensor& quantized);

std::vector<std::byte> bytes_of(const CodebookTensor& quantized);

/// A module of a reference model with its F and H; empty weight where the folder is absent.
struct RealModule {
  CodebookCase module;
  Matrix h;
};
RealModule real_module(Memory& memory, const std::string& model, const std::string& name);

}  // namespace quern::test
