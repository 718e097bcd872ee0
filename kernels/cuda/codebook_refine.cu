#include <algorithm>
#include <array>
#include <span>
#include <utility>
#include <vector>

#include "kernels/core/error.h"
#include "kernels/cuda/codebook_refine.h"
#include "kernels/cuda/codebook_tile.h"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/numeric.cuh"
#include "kernels/cuda/outliers.h"

namespace quern::gpu {
namespace {

using namespace numeric;

constexpr int kThreads = 256;
constexpr std::int64_t kPanelElems = 1 << 26;  // of the rows that are refined side by side
constexpr std::int64_t kBlockColumns = 128;    // of a sweep

/// Thread x: column j, block y: rows i. Both triangles of H as doubles.
__global__ void unfold_kernel(const std::int64_t* sums, const std::int32_t* exponents,
                              std::int64_t columns, double* h) {
  const std::int64_t j = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (j >= columns) return;
  for (std::int64_t i = blockIdx.y; i < columns; i += gridDim.y) {
    const std::int64_t fixed = sums[min(i, j) * columns + max(i, j)];
    h[i * columns + j] =
        static_cast<double>(fixed) * power_of_two(-exponents[i]) * power_of_two(-exponents[j]);
  }
}

/// One block: the sum of H's diagonal.
__global__ void trace_kernel(const double* h, std::int64_t columns, double* trace) {
  double sum = 0.0;
  for (std::int64_t k = threadIdx.x; k < columns; k += kThreads) sum += h[k * columns + k];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *trace = sum;
}

/// One thread per column: adds `damping` of the mean diagonal to the diagonal.
__global__ void damp_kernel(double* h, std::int64_t columns, const double* trace, double damping) {
  const std::int64_t k = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (k < columns) h[k * columns + k] += damping * (*trace / static_cast<double>(columns));
}

/// One block per row: s_n = sum of F over the row / trace of H. Without any activation every
/// codebook is as good; the scales only have to be finite.
__global__ void scales_kernel(const float* fisher, std::int64_t columns, const double* trace,
                              double* scales) {
  double sum = 0.0;
  for (std::int64_t k = threadIdx.x; k < columns; k += kThreads) {
    sum += static_cast<double>(fisher[std::int64_t{blockIdx.x} * columns + k]);
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) scales[blockIdx.x] = sum / (*trace > 0.0 ? *trace : 1.0);
}

/// One block per row: mask = 1 at the row's outliers.
__global__ void mark_kernel(const std::int32_t* rows, const std::int32_t* cols,
                            std::int64_t columns, std::uint8_t* mask) {
  const std::int64_t row = blockIdx.x;
  for (int i = rows[row] + static_cast<int>(threadIdx.x); i < rows[row + 1]; i += kThreads) {
    mask[row * columns + cols[i]] = 1;
  }
}

/// A module's codebook and what is left of its error.
class Refinement {
 public:
  Refinement(CudaContext& context, const RefineInput& input)
      : context_(context),
        memory_(context.memory),
        input_(input),
        weights_(load_weights(context, input.weight)),
        panel_rows_(std::clamp<std::int64_t>(kPanelElems / weights_.columns, 1, weights_.rows)),
        best_(allocate_state(memory_, input.weight.shape, input.spec)),
        moved_(allocate_state(memory_, input.weight.shape, input.spec)),
        next_(allocate_state(memory_, input.weight.shape, input.spec)),
        h_(memory_.allocate(DType::f64, {weights_.columns, weights_.columns})),
        scales_(memory_.allocate(DType::f64, {weights_.rows})),
        row_errors_(memory_.allocate(DType::f64, {weights_.rows})),
        forms_(memory_.allocate(DType::f64, {panel_rows_})),
        pull_(memory_.allocate(DType::f64, {panel_rows_, std::int64_t{1} << input.spec.bits})),
        changes_(memory_.allocate(DType::f64, {panel_rows_, kBlockColumns})),
        better_(memory_.allocate(DType::i32, {1})) {
    const Shape panel{panel_rows_, weights_.columns};
    for (Tensor* matrix : {&errors_, &gradient_, &old_errors_, &old_gradient_}) {
      *matrix = memory_.allocate(DType::f64, panel);
    }
    read_statistics();
  }

  CodebookTensor run(const CodebookTensor& start) {
    load(start);
    const std::int64_t outliers = start.cols.shape().elems();
    bool rechoose = input_.options.rechoose_outliers && outliers > 0;
    for (int round = 0; round < input_.options.rounds; ++round) {
      if (rechoose && round > 0) {
        move_outliers(outliers);
        improve(moved_);
        const double total = weighted_total();
        rechoose = total < least_;
        if (rechoose) {
          accept(total);
          continue;
        }
      }
      if (!improve(best_)) break;
      accept(weighted_total());
    }
    return assemble(context_, weights_, std::move(best_), input_.spec);
  }

 private:
  void read_statistics() {
    const std::int64_t columns = weights_.columns;
    const dim3 grid(block_count(columns, kThreads),
                    static_cast<unsigned>(std::min<std::int64_t>(columns, 1024)));
    auto* h = h_.view().as<double>();
    Tensor trace = memory_.allocate(DType::f64, {1});
    unfold_kernel<<<grid, kThreads, 0, context_.stream>>>(
        input_.gram.sums.as<std::int64_t>(), input_.gram.exponents.as<std::int32_t>(), columns, h);
    trace_kernel<<<1, kThreads, 0, context_.stream>>>(h, columns, trace.view().as<double>());
    scales_kernel<<<block_count(weights_.rows, 1), kThreads, 0, context_.stream>>>(
        input_.fisher.as<float>(), columns, trace.view().as<double>(), scales_.view().as<double>());
    damp_kernel<<<block_count(columns, kThreads), kThreads, 0, context_.stream>>>(
        h, columns, trace.view().as<double>(), input_.options.damping);
    check_launch("refine");
    host_scales_ = to_host(scales_.view());
  }

  std::vector<double> to_host(ConstTensorView view) {
    std::vector<double> host(static_cast<std::size_t>(view.elems()));
    memory_.download(view, std::as_writable_bytes(std::span(host)));
    memory_.synchronize();
    return host;
  }

  void load(const CodebookTensor& start) {
    memory_.copy(start.codes.view(), best_.codes.view());
    memory_.copy(start.table.view(), best_.table.view());
    memory_.clear(best_.mask.view());
    mark_kernel<<<block_count(weights_.rows, 1), kThreads, 0, context_.stream>>>(
        start.rows.view().as<std::int32_t>(), start.cols.view().as<std::int32_t>(),
        weights_.columns, best_.mask.view().as<std::uint8_t>());
    check_launch("refine");
    settle_rows(context_, weights_, view_of(best_, input_.spec));
  }

  RefineRows rows_at(std::int64_t first, CodebookState& state) {
    return {first,
            std::min(panel_rows_, weights_.rows - first),
            weights_.data,
            weights_.exactly,
            h_.view().as<double>(),
            errors_.view().as<double>(),
            gradient_.view().as<double>(),
            view_of(state, input_.spec)};
  }

  /// One round on the rows of next_, which are those of `from`.
  void improve_rows(const RefineRows& rows, CodebookState& from) {
    form_errors(context_, rows);
    multiply_errors(context_, rows);
    auto* forms = forms_.view().as<double>();
    form_quadratics(context_, rows, forms);
    memory_.copy(errors_.view(), old_errors_.view());
    memory_.copy(gradient_.view(), old_gradient_.view());
    const RefineBackup backup{old_errors_.view().as<double>(), old_gradient_.view().as<double>(),
                              forms, view_of(from, input_.spec)};
    auto* pull = pull_.view().as<double>();
    find_pull(context_, rows, pull);
    move_tables(context_, rows, pull);
    multiply_errors(context_, rows);
    restore_worse(context_, rows, backup);
    for (int sweep = 0; sweep < input_.options.sweeps; ++sweep) {
      sweep_columns(context_, rows, changes_.view().as<double>());
    }
    finish_round(context_, rows, backup, row_errors_.view().as<double>(),
                 better_.view().as<std::int32_t>());
  }

  /// next_ = one round on `from`. Synchronises. True if a row got better.
  bool improve(CodebookState& from) {
    copy_state(memory_, from, next_);
    memory_.clear(better_.view());
    for (std::int64_t first = 0; first < weights_.rows; first += panel_rows_) {
      improve_rows(rows_at(first, next_), from);
    }
    std::array<std::int32_t, 1> better{};
    memory_.download(better_.view(), std::as_writable_bytes(std::span(better)));
    host_errors_ = to_host(row_errors_.view());
    return better[0] != 0;
  }

  double weighted_total() const {
    double total = 0.0;
    for (std::size_t n = 0; n < host_errors_.size(); ++n) {
      total += host_scales_[n] * host_errors_[n];
    }
    return total;
  }

  void accept(double total) {
    std::swap(best_, next_);
    least_ = total;
  }

  /// moved_ = best_ with the outliers where they gain most.
  void move_outliers(std::int64_t outliers) {
    if (gains_.empty()) gains_ = memory_.allocate(DType::f32, input_.weight.shape);
    auto* gains = gains_.view().as<float>();
    copy_state(memory_, best_, moved_);
    for (std::int64_t first = 0; first < weights_.rows; first += panel_rows_) {
      const RefineRows rows = rows_at(first, moved_);
      form_errors(context_, rows);
      multiply_errors(context_, rows);
      find_gains(context_, rows, scales_.view().as<double>(), gains);
    }
    memory_.clear(moved_.mask.view());
    mark_largest(context_, {gains, weights_.elems(), outliers},
                 moved_.mask.view().as<std::uint8_t>());
    settle_rows(context_, weights_, view_of(moved_, input_.spec));
  }

  CudaContext& context_;
  Memory& memory_;
  const RefineInput& input_;
  FloatWeights weights_;
  std::int64_t panel_rows_;
  CodebookState best_;
  CodebookState moved_;
  CodebookState next_;
  Tensor h_;
  Tensor scales_;      ///< [N] f64
  Tensor row_errors_;  ///< [N] f64: e H e of the rows of next_
  Tensor forms_;
  Tensor pull_;
  Tensor changes_;
  Tensor better_;
  Tensor errors_, gradient_, old_errors_, old_gradient_;  ///< [panel, K] f64
  Tensor gains_;
  std::vector<double> host_scales_;
  std::vector<double> host_errors_;
  double least_ = 0.0;
};

}  // namespace

CodebookTensor refine_codebook(CudaContext& context, const RefineInput& input,
                               const CodebookTensor& start) {
  std::array<std::int64_t, 1> overflow{};
  context.memory.download(input.gram.overflow, std::as_writable_bytes(std::span(overflow)));
  context.memory.synchronize();
  ensure(overflow[0] == 0, "an H whose contributions did not overflow its exponents");
  return Refinement(context, input).run(start);
}

}  // namespace quern::gpu
