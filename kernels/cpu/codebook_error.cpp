#include "kernels/cpu/codebook_error.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu/convert.h"

namespace quern {
namespace {

constexpr std::int64_t kParts = 64;  // sums of a module are formed in as many runs of rows

/// The column profile of a module: what its rows without F of their own get.
std::vector<double> column_profile(ConstTensorView fisher,
                                   std::optional<ConstTensorView> column_energy) {
  const std::int64_t columns = fisher.shape[1];
  std::vector<double> profile(static_cast<std::size_t>(columns));
  const auto usable = [&] {
    return std::any_of(profile.begin(), profile.end(), [](double value) { return value > 0.0; });
  };
  if (column_energy) std::copy_n(column_energy->as<double>(), columns, profile.begin());
  if (usable()) return profile;
  for (std::int64_t n = 0; n < fisher.shape[0]; ++n) {
    const float* row = fisher.as<float>() + n * columns;
    for (std::size_t k = 0; k < profile.size(); ++k) profile[k] += static_cast<double>(row[k]);
  }
  if (!usable()) profile.clear();
  return profile;
}

/// Calls visit(n, w, q, f) for the rows of part `part` of kParts.
template <typename Visit>
void visit_rows(const CodebookErrors& input, std::int64_t part, std::vector<float>& row,
                Visit visit) {
  const std::int64_t columns = input.weight.shape[1];
  const std::int64_t rows = input.weight.shape[0];
  for (std::int64_t n = part * rows / kParts; n < (part + 1) * rows / kParts; ++n) {
    load_elems(input.weight, n * columns, columns, row.data());
    const float* quantized = input.quantized.as<float>() + n * columns;
    const float* fisher = input.fisher.as<float>() + n * columns;
    for (std::size_t k = 0; k < row.size(); ++k) {
      visit(static_cast<double>(row[k]), static_cast<double>(quantized[k]),
            static_cast<double>(fisher[k]));
    }
  }
}

/// visit(part, w, q, f) for all elements, each part by one thread and in order.
template <typename Visit>
void visit_parts(const CodebookErrors& input, Visit visit) {
  std::vector<std::vector<float>> buffers(
      static_cast<std::size_t>(input.threads),
      std::vector<float>(static_cast<std::size_t>(input.weight.shape[1])));
#pragma omp parallel for schedule(dynamic) num_threads(input.threads)
  for (std::int64_t part = 0; part < kParts; ++part) {
    visit_rows(
        input, part, buffers[static_cast<std::size_t>(omp_get_thread_num())],
        [&](double w, double q, double f) { visit(static_cast<std::size_t>(part), w, q, f); });
  }
}

/// Bin of gain > 0; the quarters of an octave by comparison, so that their edges are exact.
std::size_t gain_bin(double gain) {
  int exponent = 0;
  const double mantissa = 2.0 * std::frexp(gain, &exponent);  // [1, 2)
  const int quarter = (mantissa >= 0x1.306fe0a31b715p+0 ? 1 : 0) +
                      (mantissa >= 0x1.6a09e667f3bcdp+0 ? 1 : 0) +
                      (mantissa >= 0x1.ae89f995ad3adp+0 ? 1 : 0);
  const std::int64_t bin = 4 * (std::int64_t{exponent} - 1) + quarter + CodebookSolver::gain_offset;
  return static_cast<std::size_t>(std::clamp<std::int64_t>(bin, 0, CodebookSolver::gain_bins - 1));
}

}  // namespace

CodebookSolver::UninformedRows fill_uninformed_fisher(
    TensorView fisher, std::optional<ConstTensorView> column_energy) {
  const std::int64_t columns = fisher.shape[1];
  auto* values = fisher.as<float>();
  std::vector<std::int64_t> empty;
  double least = std::numeric_limits<double>::infinity();
  for (std::int64_t n = 0; n < fisher.shape[0]; ++n) {
    double sum = 0.0;
    for (std::int64_t k = 0; k < columns; ++k) sum += static_cast<double>(values[n * columns + k]);
    if (sum > 0.0) {
      least = std::min(least, sum);
    } else {
      empty.push_back(n);
    }
  }
  if (empty.empty()) return {};
  std::vector<double> profile = column_profile(fisher, column_energy);
  const bool from_energy = !profile.empty();
  if (!from_energy) profile.assign(static_cast<std::size_t>(columns), 1.0);
  double total = 0.0;
  for (const double value : profile) total += value;
  const double scale = std::isfinite(least) ? least / total : 1.0;
  for (const std::int64_t n : empty) {
    for (std::size_t k = 0; k < profile.size(); ++k) {
      values[n * columns + static_cast<std::int64_t>(k)] = static_cast<float>(
          std::min(profile[k] * scale, static_cast<double>(std::numeric_limits<float>::max())));
    }
  }
  const auto filled = static_cast<std::int64_t>(empty.size());
  return from_energy ? CodebookSolver::UninformedRows{filled, 0}
                     : CodebookSolver::UninformedRows{0, filled};
}

void dequantize_codebook(const CodebookTensor& quantized, TensorView out, int threads) {
  const std::int64_t columns = out.shape[1];
  const std::int64_t count = quantized.table.shape()[1];
  const auto* rows = quantized.rows.view().as<std::int32_t>();
#pragma omp parallel for schedule(static) num_threads(threads)
  for (std::int64_t n = 0; n < out.shape[0]; ++n) {
    const auto* codes = quantized.codes.view().as<std::uint8_t>() + n * columns;
    const auto* table = quantized.table.view().as<float>() + n * count;
    float* row = out.as<float>() + n * columns;
    for (std::int64_t k = 0; k < columns; ++k) row[k] = table[codes[k]];
    for (std::int32_t i = rows[n]; i < rows[n + 1]; ++i) {
      row[quantized.cols.view().as<std::int32_t>()[i]] += quantized.vals.view().as<float>()[i];
    }
  }
}

void sum_weighted_error(const CodebookErrors& input, double* result) {
  std::vector<double> errors(kParts);
  std::vector<double> norms(kParts);
  visit_parts(input, [&](std::size_t part, double w, double q, double f) {
    errors[part] += f * (w - q) * (w - q);
    norms[part] += f * w * w;
  });
  result[0] = result[1] = 0.0;
  for (std::size_t part = 0; part < errors.size(); ++part) {
    result[0] += errors[part];
    result[1] += norms[part];
  }
}

void count_error_gains(const CodebookErrors& input, TensorView counts, TensorView sums) {
  constexpr auto kBins = static_cast<std::size_t>(CodebookSolver::gain_bins);
  std::vector<std::int64_t> part_counts(kParts * kBins);
  std::vector<double> part_sums(kParts * kBins);
  visit_parts(input, [&](std::size_t part, double w, double q, double f) {
    const double gain = f * (w - q) * (w - q);
    if (!(gain > 0.0)) return;
    const std::size_t at = part * kBins + gain_bin(gain);
    ++part_counts[at];
    part_sums[at] += gain;
  });
  std::fill_n(counts.as<std::int64_t>(), kBins, 0);
  std::fill_n(sums.as<double>(), kBins, 0.0);
  for (std::size_t at = 0; at < part_sums.size(); ++at) {
    counts.as<std::int64_t>()[at % kBins] += part_counts[at];
    sums.as<double>()[at % kBins] += part_sums[at];
  }
}

}  // namespace quern
