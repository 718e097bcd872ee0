#include "kernels/cpu/codebook_refine.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/core/error.h"
#include "kernels/cpu/codebook_table.h"
#include "kernels/cpu/codebook_tile.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/outliers.h"

namespace quern {
namespace {

/// Both triangles of H as doubles.
void unfold_gram(const GramView& gram, double* h, int threads) {
  const std::int64_t columns = gram.sums.shape[0];
  const auto* sums = gram.sums.as<std::int64_t>();
  std::vector<double> scales(static_cast<std::size_t>(columns));
  for (std::int64_t k = 0; k < columns; ++k) {
    scales[static_cast<std::size_t>(k)] = std::ldexp(1.0, -gram.exponents.as<std::int32_t>()[k]);
  }
#pragma omp parallel for schedule(static, 16) num_threads(threads)
  for (std::int64_t i = 0; i < columns; ++i) {
    const double scale = scales[static_cast<std::size_t>(i)];
    for (std::int64_t j = 0; j < columns; ++j) {
      const std::int64_t fixed = sums[std::min(i, j) * columns + std::max(i, j)];
      h[i * columns + j] = static_cast<double>(fixed) * scale * scales[static_cast<std::size_t>(j)];
    }
  }
}

/// s_n = sum of F over the row / trace of H.
std::vector<double> row_scales(ConstTensorView fisher, double trace) {
  std::vector<double> scales;
  for (std::int64_t n = 0; n < fisher.shape[0]; ++n) {
    double sum = 0.0;
    for (std::int64_t k = 0; k < fisher.shape[1]; ++k) {
      sum += static_cast<double>(fisher.as<float>()[n * fisher.shape[1] + k]);
    }
    scales.push_back(sum / trace);
  }
  return scales;
}

/// A module's codebook and what is left of its error.
class Refinement {
 public:
  Refinement(Memory& memory, const RefineInput& input, const double* h, std::vector<double> scales)
      : memory_(memory),
        input_(input),
        problem_{input.weight, h, input.spec, input.options.sweeps},
        scales_(std::move(scales)),
        best_(allocate_state(memory, input.weight.shape, input.spec)),
        moved_(allocate_state(memory, input.weight.shape, input.spec)),
        next_(allocate_state(memory, input.weight.shape, input.spec)),
        errors_(scales_.size()) {
    for (int thread = 0; thread < input.threads; ++thread) {
      tiles_.push_back(std::make_unique<RefineTile>(problem_));
    }
  }

  CodebookState run(const CodebookTensor& start) {
    load(start);
    bool rechoose = input_.options.rechoose_outliers && outliers_ > 0;
    for (int round = 0; round < input_.options.rounds; ++round) {
      if (rechoose && round > 0) {
        move_outliers();
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
    return std::move(best_);
  }

 private:
  static constexpr std::int64_t kRows = kLanes;

  /// call(first_row, tile) for all tiles.
  template <typename Call>
  void for_tiles(Call call) {
    const std::int64_t rows = input_.weight.shape[0];
#pragma omp parallel for schedule(dynamic) num_threads(input_.threads)
    for (std::int64_t row = 0; row < rows; row += kRows) {
      call(row, *tiles_[static_cast<std::size_t>(omp_get_thread_num())]);
    }
  }

  void load(const CodebookTensor& start) {
    memory_.copy(start.codes.view(), best_.codes.view());
    memory_.copy(start.table.view(), best_.table.view());
    memory_.clear(best_.mask.view());
    memory_.synchronize();
    const auto* rows = start.rows.view().as<std::int32_t>();
    const auto* cols = start.cols.view().as<std::int32_t>();
    for (std::int64_t n = 0; n < input_.weight.shape[0]; ++n) {
      const CodebookRow row = row_of(best_, n);
      for (std::int32_t i = rows[n]; i < rows[n + 1]; ++i) {
        row.mask[static_cast<std::size_t>(cols[i])] = 1;
      }
      settle(best_, n);
    }
    outliers_ = rows[input_.weight.shape[0]];
  }

  /// Makes the table fit to express the outliers of its row.
  void settle(CodebookState& state, std::int64_t n) {
    const CodebookRow row = row_of(state, n);
    const auto count = static_cast<int>(row.table.size());
    std::vector<float> weights(row.codes.size());
    load_elems(input_.weight, n * input_.weight.shape[1], input_.weight.shape[1], weights.data());
    const std::optional<float> largest = largest_outlier(weights, row.mask);
    const std::vector<double> values(row.table.begin(), row.table.end());
    std::vector<std::uint8_t> places(values.size());
    finish_table(values, {input_.spec.table_dtype, count, largest}, row.table.data(),
                 places.data());
    for (std::uint8_t& code : row.codes) code = places[code];
    if (largest) settle_outliers(weights, has_short_weights(input_.weight), row);
  }

  /// next_ = one round on `from`.
  bool improve(CodebookState& from) {
    std::vector<char> better(static_cast<std::size_t>(input_.weight.shape[0]));
    for_tiles([&](std::int64_t row, RefineTile& tile) {
      better[static_cast<std::size_t>(row)] =
          tile.improve(from, next_, row, errors_.data()) ? 1 : 0;
    });
    return std::find(better.begin(), better.end(), 1) != better.end();
  }

  double weighted_total() const {
    double total = 0.0;
    for (std::size_t n = 0; n < errors_.size(); ++n) total += scales_[n] * errors_[n];
    return total;
  }

  void accept(double total) {
    std::swap(best_, next_);
    least_ = total;
  }

  /// moved_ = best_ with the outliers where they gain most.
  void move_outliers() {
    const Shape& shape = input_.weight.shape;
    if (gains_.empty()) gains_ = memory_.allocate(DType::f32, shape);
    auto* gains = gains_.view().as<float>();
    for_tiles([&](std::int64_t row, RefineTile& tile) {
      tile.find_gains(best_, moved_, row, scales_.data(), gains);
    });
    memory_.clear(moved_.mask.view());
    memory_.synchronize();
    mark_largest({gains, shape.elems(), outliers_}, moved_.mask.view().as<std::uint8_t>(),
                 input_.threads);
    for (std::int64_t n = 0; n < shape[0]; ++n) settle(moved_, n);
  }

  Memory& memory_;
  const RefineInput& input_;
  RefineProblem problem_;
  std::vector<double> scales_;
  CodebookState best_;
  CodebookState moved_;
  CodebookState next_;
  std::vector<double> errors_;  // e H e of the rows of next_
  std::vector<std::unique_ptr<RefineTile>> tiles_;
  Tensor gains_;
  std::int64_t outliers_ = 0;
  double least_ = 0.0;
};

}  // namespace

CodebookTensor refine_codebook(Memory& memory, const RefineInput& input,
                               const CodebookTensor& start) {
  ensure(input.gram.overflow.as<std::int64_t>()[0] == 0,
         "an H whose contributions did not overflow its exponents");
  const std::int64_t columns = input.weight.shape[1];
  Tensor unfolded = memory.allocate(DType::f64, {columns, columns});
  auto* h = unfolded.view().as<double>();
  unfold_gram(input.gram, h, input.threads);
  double trace = 0.0;
  for (std::int64_t k = 0; k < columns; ++k) trace += h[k * columns + k];
  const double mean = trace / static_cast<double>(columns);
  for (std::int64_t k = 0; k < columns; ++k) h[k * columns + k] += input.options.damping * mean;
  // Without any activation every codebook is as good; the scales only have to be finite.
  Refinement refinement(memory, input, h, row_scales(input.fisher, trace > 0.0 ? trace : 1.0));
  return assemble(memory, input.weight, refinement.run(start), input.threads);
}

}  // namespace quern
