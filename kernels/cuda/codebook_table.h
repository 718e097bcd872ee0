#pragma once

#include <cstdint>

#include "kernels/cuda/context.h"

namespace quern::gpu {

/// A module's weights as floats, which all codebook operations work on.
struct FloatWeights {
  Tensor converted;  ///< empty where the weights are floats already
  const float* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  bool exactly = false;  ///< 16-bit weights, whose outliers must be exact
  int zero_bits = 0;     ///< low bits that are zero in every weight

  std::int64_t elems() const { return rows * columns; }
};
FloatWeights load_weights(CudaContext& context, ConstTensorView weight);

/// A codebook on its way: an outlier's code is the one nearest to 0.
struct CodebookState {
  Tensor codes;  ///< [N, K] u8
  Tensor table;  ///< [N, 2^bits] f32
  Tensor mask;   ///< [N, K] u8: 1 at outliers
};
CodebookState allocate_state(Memory& memory, const Shape& shape, const CodebookSpec& spec);
void copy_state(Memory& memory, CodebookState& from, CodebookState& to);

/// Rows of a state as kernels see them.
struct StateView {
  std::uint8_t* codes;
  float* table;
  std::uint8_t* mask;
  std::int64_t columns;
  int count;

  bool half;  ///< table of f16
};
StateView view_of(CodebookState& state, const CodebookSpec& spec);

/// The centroids of each row, and how many there are; used [N] < 0: the row stays as it is.
struct Centroids {
  const double* values;  ///< [N, 2^bits]
  const std::int32_t* used;
};

/// Tables, codes and outliers of the state from centroids.
void finish_rows(CudaContext& context, const FloatWeights& weights, const Centroids& centroids,
                 const StateView& state);

/// Makes the tables fit to express the outliers of their rows; codes follow.
void settle_rows(CudaContext& context, const FloatWeights& weights, const StateView& state);

/// The state, its masked weights as a sparse matrix. Synchronises. Throws InputError from 2^31
/// outliers on.
CodebookTensor assemble(CudaContext& context, const FloatWeights& weights, CodebookState state,
                        const CodebookSpec& spec);

}  // namespace quern::gpu
