#include <algorithm>

#include "kernels/cuda/errors.h"
#include "kernels/cuda/exponents.h"
#include "kernels/cuda/numeric.cuh"
#include "kernels/cuda/statistics_ops.h"

namespace quern::gpu {
namespace {

using namespace numeric;

constexpr int kThreads = 256;
constexpr std::int64_t kWorkBytes = 1 << 27;  // of gradients held at a time
constexpr std::int64_t kPanelRows = 128;      // a panel is a multiple, for whole tiles
constexpr std::int64_t kSequencesAtOnce = 4;  // whose squares meet before the sums are touched
constexpr double kMostOfSequence = 0x1p62;
constexpr std::int64_t kMostBlocksDown = 65535;  // of a grid

/// A micro-batch whose gradients dy^T x are formed for some rows and sequences at a time.
struct GradientSource {
  ConstTensorView x;
  ConstTensorView dy;
  std::int64_t sequence_length;

  std::int64_t sequences() const { return x.shape[0] / sequence_length; }
  std::int64_t rows() const { return dy.shape[1]; }
  std::int64_t columns() const { return x.shape[1]; }
  DType gradient_dtype() const { return wide_dtype(x.dtype); }
  /// Rows that `sequences_at_once` gradients may have.
  std::int64_t panel_rows(std::int64_t sequences_at_once) const {
    const auto elem_bytes = static_cast<std::int64_t>(dtype_bytes(gradient_dtype()));
    const std::int64_t row_elems = std::max<std::int64_t>(1, sequences_at_once * columns());
    const std::int64_t fit = std::max<std::int64_t>(1, kWorkBytes / (row_elems * elem_bytes));
    return std::min(rows(), fit < kPanelRows ? fit : fit / kPanelRows * kPanelRows);
  }
};

/// Gradients of rows and sequences [first, first + count).
struct GradientPart {
  std::int64_t row, rows;
  std::int64_t sequence, sequences;
};

/// gradients [part.sequences, part.rows, columns]
void form_gradients(CudaContext& context, const GradientSource& source, const GradientPart& part,
                    TensorView gradients) {
  const auto bytes = static_cast<std::int64_t>(dtype_bytes(source.x.dtype));
  const std::int64_t token = part.sequence * source.sequence_length;
  multiply_transposed(context,
                      {.rows = part.rows,
                       .columns = source.columns(),
                       .depth = source.sequence_length,
                       .a = source.dy.data + (token * source.rows() + part.row) * bytes,
                       .a_row = source.rows(),
                       .a_batch = source.sequence_length * source.rows(),
                       .b = source.x.data + token * source.columns() * bytes,
                       .b_row = source.columns(),
                       .b_batch = source.sequence_length * source.columns(),
                       .dtype = source.x.dtype,
                       .batch = part.sequences},
                      gradients);
}

dim3 grid_of(const GradientPart& part, std::int64_t columns) {
  return {block_count(columns, kThreads),
          static_cast<unsigned>(std::min(part.rows, kMostBlocksDown))};
}

/// Of values that are not negative, as bits: ordered like the values, and those of NaN are above.
struct LargestBits {
  __device__ unsigned long long operator()(unsigned long long a, unsigned long long b) const {
    return a > b ? a : b;
  }
};

/// Thread x: one column; block y: rows y, y + gridDim.y, ... Squares of all sequences are summed.
template <typename W>
__global__ void largest_kernel(const W* gradients, GradientPart part, std::int64_t columns,
                               double* largest) {
  const std::int64_t column = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  for (std::int64_t row = blockIdx.y; row < part.rows; row += gridDim.y) {
    double sum = 0.0;
    for (std::int64_t s = 0; column < columns && s < part.sequences; ++s) {
      const double gradient = gradients[(s * part.rows + row) * columns + column];
      sum += gradient * gradient;
    }
    // One atomic for a block: those on one row's maximum wait for each other.
    const auto bits =
        reduce_block(static_cast<unsigned long long>(__double_as_longlong(sum)), LargestBits{});
    if (threadIdx.x == 0) {
      atomicMax(reinterpret_cast<unsigned long long*>(largest + part.row + row), bits);
    }
  }
}

struct SquareSums {
  const std::int32_t* exponents;
  std::int64_t* sums;
  std::int64_t* overflow;
  double limit;
  unsigned long long* bursts;  ///< [sequences, out_rows]: the largest of each row's burst
  std::int64_t out_rows;
};

/// Thread x: one column; block y: rows y, y + gridDim.y, ...
template <typename W>
__global__ void add_squares_kernel(const W* gradients, GradientPart part, std::int64_t columns,
                                   SquareSums out) {
  const std::int64_t column = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  unsigned refused = 0;
  for (std::int64_t row = blockIdx.y; column < columns && row < part.rows; row += gridDim.y) {
    const double scale = power_of_two(out.exponents[part.row + row]);
    std::int64_t sum = 0;
    for (std::int64_t s = 0; s < part.sequences; ++s) {
      const double gradient = gradients[(s * part.rows + row) * columns + column];
      const double scaled = gradient * gradient * scale;
      const bool fits = scaled < kMostOfSequence;
      refused += fits ? 0 : 1;
      const std::int64_t value = fits ? __double2ll_rn(scaled) : 0;
      sum += value;
      if (fits && scaled >= out.limit) {
        atomicMax(out.bursts + (part.sequence + s) * out.out_rows + part.row + row,
                  static_cast<unsigned long long>(value));
      }
    }
    out.sums[(part.row + row) * columns + column] += sum;
  }
  count_refused(refused, out.overflow);
}

/// Thread: one row. sums [rows] += the largest bursts of all sequences, [sequences, rows].
__global__ void add_bursts_kernel(const unsigned long long* bursts, std::int64_t sequences,
                                  std::int64_t rows, std::int64_t* sums) {
  const std::int64_t row = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (row >= rows) return;
  for (std::int64_t s = 0; s < sequences; ++s) {
    const auto largest = static_cast<std::int64_t>(bursts[s * rows + row]);
    if (largest > 0) sums[row] += largest / StatisticsOps::fisher_burst_unit + 1;
  }
}

/// Thread x: one column; block y: rows y, y + gridDim.y, ...
__global__ void values_kernel(const std::int64_t* sums, const std::int32_t* exponents,
                              std::int64_t rows, std::int64_t columns, float* out) {
  const std::int64_t column = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (column >= columns) return;
  for (std::int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
    const double value = static_cast<double>(__ll2float_rn(sums[row * columns + column]));
    out[row * columns + column] = static_cast<float>(value * power_of_two(-exponents[row]));
  }
}

/// One block per token.
template <typename T>
__global__ void scale_kernel(const T* x, const T* dy, std::int64_t width, std::int64_t outputs,
                             T* out) {
  const std::int64_t token = blockIdx.x;
  double sum = 0.0;
  for (std::int64_t i = threadIdx.x; i < outputs; i += kThreads) {
    const double gradient = to_double(dy[token * outputs + i]);
    sum += gradient * gradient;
  }
  const double mean = block_sum(sum) / static_cast<double>(outputs);
  const auto factor = static_cast<Wide<T>>(sqrt(mean));
  for (std::int64_t i = threadIdx.x; i < width; i += kThreads) {
    out[token * width + i] = narrow<T>(widen(x[token * width + i]) * factor);
  }
}

}  // namespace

void CudaStatisticsOps::do_choose_fisher_exponents(ConstTensorView x, ConstTensorView dy,
                                                   const SequenceCut& cut, int headroom_bits,
                                                   TensorView exponents) {
  expect_activation(context_, "choose_fisher_exponents", {x, dy});
  const GradientSource source{x, dy, cut.sequence_length};
  const std::int64_t sequences = source.sequences();
  Tensor largest = context_.memory.allocate(DType::f64, {source.rows()});
  context_.memory.clear(largest.view());
  if (sequences > 0 && source.columns() > 0) {
    const std::int64_t panel = source.panel_rows(sequences);
    Tensor work =
        context_.memory.allocate(source.gradient_dtype(), {sequences, panel, source.columns()});
    for (std::int64_t row = 0; row < source.rows(); row += panel) {
      const GradientPart part{row, std::min(panel, source.rows() - row), 0, sequences};
      form_gradients(context_, source, part, work.view());
      with_wide(work.dtype(), [&]<typename W>(TypeTag<W>) {
        largest_kernel<<<grid_of(part, source.columns()), kThreads, 0, context_.stream>>>(
            work.view().as<W>(), part, source.columns(), largest.view().as<double>());
      });
      check_launch("choose_fisher_exponents");
    }
  }
  const double growth = static_cast<double>(cut.total_sequences) /
                        static_cast<double>(std::max<std::int64_t>(1, sequences));
  fill_exponents(context_, largest.view().as<double>(), {growth, 62 - headroom_bits, false},
                 exponents);
}

void CudaStatisticsOps::do_accumulate_fisher(ConstTensorView x, ConstTensorView dy,
                                             const SequenceCut& cut, const FisherView& fisher) {
  expect_activation(context_, "accumulate_fisher", {x, dy});
  const GradientSource source{x, dy, cut.sequence_length};
  const std::int64_t at_once = std::min(kSequencesAtOnce, source.sequences());
  const std::int64_t panel = source.panel_rows(at_once);
  Tensor work =
      context_.memory.allocate(source.gradient_dtype(), {at_once, panel, source.columns()});
  Tensor bursts = context_.memory.allocate(DType::i64, {source.sequences(), source.rows()});
  context_.memory.clear(bursts.view());
  auto* overflow = fisher.overflow.as<std::int64_t>();
  const SquareSums sums{fisher.exponents.as<std::int32_t>(),
                        fisher.sums.as<std::int64_t>(),
                        overflow,
                        kMostOfSequence / static_cast<double>(cut.total_sequences),
                        bursts.view().as<unsigned long long>(),
                        source.rows()};
  for (std::int64_t row = 0; row < source.rows(); row += panel) {
    for (std::int64_t s = 0; s < source.sequences(); s += at_once) {
      const GradientPart part{row, std::min(panel, source.rows() - row), s,
                              std::min(at_once, source.sequences() - s)};
      form_gradients(context_, source, part, work.view());
      with_wide(work.dtype(), [&]<typename W>(TypeTag<W>) {
        add_squares_kernel<<<grid_of(part, source.columns()), kThreads, 0, context_.stream>>>(
            work.view().as<W>(), part, source.columns(), sums);
      });
      check_launch("accumulate_fisher");
    }
  }
  add_bursts_kernel<<<block_count(source.rows(), kThreads), kThreads, 0, context_.stream>>>(
      sums.bursts, source.sequences(), source.rows(), overflow + 1);
  check_launch("accumulate_fisher");
}

void CudaStatisticsOps::do_fisher_values(const FisherView& fisher, TensorView out) {
  const std::int64_t rows = out.shape[0];
  const std::int64_t columns = out.shape[1];
  const dim3 grid = grid_of({0, rows, 0, 1}, columns);
  values_kernel<<<grid, kThreads, 0, context_.stream>>>(fisher.sums.as<std::int64_t>(),
                                                        fisher.exponents.as<std::int32_t>(), rows,
                                                        columns, out.as<float>());
  check_launch("fisher_values");
}

void CudaStatisticsOps::do_scale_by_gradient(ConstTensorView x, ConstTensorView dy,
                                             TensorView out) {
  with_plain_float(x.dtype, [&](auto element) {
    using T = typename decltype(element)::Type;
    scale_kernel<<<static_cast<unsigned>(x.shape[0]), kThreads, 0, context_.stream>>>(
        x.as<T>(), dy.as<T>(), x.shape[1], dy.shape[1], out.as<T>());
  });
  check_launch("scale_by_gradient");
}

}  // namespace quern::gpu
