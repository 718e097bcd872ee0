#include "kernels/cpu/codebook_cluster.h"

#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "kernels/core/error.h"
#include "kernels/cpu/codebook_table.h"
#include "kernels/cpu/convert.h"
#include "kernels/cpu/kmeans_row.h"
#include "kernels/cpu/outliers.h"

namespace quern {
namespace {

constexpr int kMaxRounds = 20;

/// What one thread needs for a row.
struct RowWork {
  RowWork(std::int64_t columns, std::size_t count)
      : weight(static_cast<std::size_t>(columns)),
        codes(static_cast<std::size_t>(columns)),
        places(count) {
    centroids.reserve(count);
  }

  std::vector<float> weight;
  std::vector<std::uint8_t> codes;
  std::vector<std::uint8_t> places;
  std::vector<double> centroids;
  PointMerger merger;
  LineClustering clustering;
};

/// The centroids of one module, row by row, with any mask.
class ModuleClustering {
 public:
  ModuleClustering(Memory& memory, const ClusterInput& input)
      : input_(input),
        rows_(input.weight.shape[0]),
        columns_(input.weight.shape[1]),
        state_(allocate_state(memory, input.weight.shape, input.spec)),
        error_(static_cast<std::size_t>(rows_)),
        work_(static_cast<std::size_t>(input.threads),
              RowWork(columns_, std::size_t{1} << input.spec.bits)) {}

  CodebookState& state() noexcept { return state_; }

  /// Clusters all rows; mask may be null.
  void solve(const std::uint8_t* mask) {
    std::uint8_t* own = state_.mask.view().as<std::uint8_t>();
    if (mask == nullptr) {
      std::fill_n(own, rows_ * columns_, std::uint8_t{0});
    } else {
      std::transform(mask, mask + rows_ * columns_, own,
                     [](std::uint8_t kept) { return static_cast<std::uint8_t>(kept != 0); });
    }
    for_rows([&](std::int64_t n, RowWork& work) { solve_row(n, work); });
    refuse_infinite();
  }

  /// Takes over another mask and clusters the rows in which it differs.
  void move_outliers(const std::uint8_t* mask) {
    for_rows([&](std::int64_t n, RowWork& work) {
      const auto own = row_of(state_, n).mask;
      if (std::equal(own.begin(), own.end(), mask + n * columns_)) return;
      std::copy_n(mask + n * columns_, columns_, own.begin());
      solve_row(n, work);
    });
  }

  /// gains [N, K] = F (w - c)^2 with the nearest centroid, also of outliers.
  void find_gains(float* gains) {
    for_rows([&](std::int64_t n, RowWork& work) {
      const CodebookRow row = row_of(state_, n);
      nearest_codes(work.weight, row.table.data(), static_cast<int>(row.table.size()),
                    work.codes.data());
      const float* fisher = fisher_of(n);
      for (std::size_t k = 0; k < work.weight.size(); ++k) {
        const double error =
            static_cast<double>(work.weight[k]) - static_cast<double>(row.table[work.codes[k]]);
        gains[n * columns_ + static_cast<std::int64_t>(k)] =
            static_cast<float>(std::min(static_cast<double>(fisher[k]) * error * error, 1e38));
      }
    });
  }

  /// sum F (w - q)^2 over all that is not exact.
  double objective() {
    for_rows([&](std::int64_t n, RowWork& work) {
      const CodebookRow row = row_of(state_, n);
      const float* fisher = fisher_of(n);
      double sum = 0.0;
      for (std::size_t k = 0; k < work.weight.size(); ++k) {
        const double error =
            static_cast<double>(work.weight[k]) - static_cast<double>(row.table[row.codes[k]]);
        sum += row.mask[k] != 0 ? 0.0 : static_cast<double>(fisher[k]) * error * error;
      }
      error_[static_cast<std::size_t>(n)] = sum;
    });
    double total = 0.0;
    for (const double error : error_) total += error;
    return total;
  }

 private:
  const float* fisher_of(std::int64_t n) const { return input_.fisher.as<float>() + n * columns_; }

  /// call(n, work) with the row's weights in the work space.
  template <typename Call>
  void for_rows(Call call) {
#pragma omp parallel for schedule(dynamic, 4) num_threads(input_.threads)
    for (std::int64_t n = 0; n < rows_; ++n) {
      RowWork& work = work_[static_cast<std::size_t>(omp_get_thread_num())];
      load_elems(input_.weight, n * columns_, columns_, work.weight.data());
      call(n, work);
    }
  }

  void solve_row(std::int64_t n, RowWork& work) {
    const bool finite = std::all_of(work.weight.begin(), work.weight.end(),
                                    [](float w) { return std::isfinite(w); });
    error_[static_cast<std::size_t>(n)] = finite ? 0.0 : 1.0;
    if (!finite) return;
    const CodebookRow row = row_of(state_, n);
    const auto count = static_cast<int>(row.table.size());
    const std::optional<float> largest = largest_outlier(work.weight, row.mask);
    const LinePoints& points =
        work.merger.merge(work.weight, fisher_of(n), largest ? row.mask.data() : nullptr);
    work.centroids.clear();
    std::int32_t begin = 0;
    for (const std::int32_t end : work.clustering.solve(points, count)) {
      double mass = 0.0;
      double moment = 0.0;
      for (; begin < end; ++begin) {
        const auto i = static_cast<std::size_t>(begin);
        mass += points.weights[i];
        moment += points.weights[i] * points.values[i];
      }
      work.centroids.push_back(moment / mass);
    }
    finish_table(work.centroids, {input_.spec.table_dtype, count, largest}, row.table.data(),
                 work.places.data());
    nearest_codes(work.weight, row.table.data(), count, row.codes.data());
    if (largest) settle_outliers(work.weight, has_short_weights(input_.weight), row);
  }

  void refuse_infinite() const {
    const auto bad = std::find_if(error_.begin(), error_.end(), [](double e) { return e != 0.0; });
    if (bad == error_.end()) return;
    throw InputError(fmt::format(
        "cluster: output row {} of {} holds an infinite or NaN weight; expected finite weights; "
        "check the checkpoint, or skip this module with a rule",
        bad - error_.begin(), rows_));
  }

  const ClusterInput& input_;
  std::int64_t rows_;
  std::int64_t columns_;
  CodebookState state_;
  std::vector<double> error_;  // of each row; while solving: 1 where it is not finite
  std::vector<RowWork> work_;
};

}  // namespace

CodebookTensor cluster_rows(Memory& memory, const ClusterInput& input,
                            std::optional<ConstTensorView> mask) {
  ModuleClustering clustering(memory, input);
  clustering.solve(mask ? mask->as<std::uint8_t>() : nullptr);
  return assemble(memory, input.weight, std::move(clustering.state()), input.threads);
}

CodebookTensor cluster_rows_jointly(Memory& memory, const ClusterInput& input, TensorView mask,
                                    std::int64_t outliers) {
  ModuleClustering clustering(memory, input);
  CodebookState best = allocate_state(memory, input.weight.shape, input.spec);
  const auto keep = [&] {
    memory.copy(clustering.state().codes.view(), best.codes.view());
    memory.copy(clustering.state().table.view(), best.table.view());
    memory.copy(clustering.state().mask.view(), best.mask.view());
  };
  auto* marks = mask.as<std::uint8_t>();
  clustering.solve(marks);
  const std::int64_t elems = input.weight.elems();
  const bool allowed = elems - std::count(marks, marks + elems, std::uint8_t{0}) <= outliers;
  double least = allowed ? clustering.objective() : std::numeric_limits<double>::infinity();
  if (allowed) keep();
  Tensor gains = memory.allocate(DType::f32, input.weight.shape);
  auto* gain = gains.view().as<float>();
  for (int round = 0; round < kMaxRounds; ++round) {
    clustering.find_gains(gain);
    std::fill_n(marks, elems, std::uint8_t{0});
    mark_largest({gain, elems, outliers}, marks, input.threads);
    clustering.move_outliers(marks);
    const double objective = clustering.objective();
    if (!(objective < least)) break;
    least = objective;
    keep();
  }
  memory.copy(best.mask.view(), mask);
  return assemble(memory, input.weight, std::move(best), input.threads);
}

}  // namespace quern
