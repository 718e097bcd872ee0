#include <algorithm>
#include <limits>
#include <span>
#include <vector>

#include "kernels/cuda/codebook_error.h"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/numeric.cuh"

namespace quern::gpu {
namespace {

using namespace numeric;

constexpr int kThreads = 256;
constexpr int kParts = 512;  // blocks whose sums are added in order

/// One block per row: codes to centroids, then outliers.
__global__ void dequantize_kernel(const std::uint8_t* codes, const float* table,
                                  std::int64_t columns, std::int64_t count, float* out) {
  const std::int64_t row = blockIdx.x;
  for (std::int64_t k = threadIdx.x; k < columns; k += kThreads) {
    out[row * columns + k] = table[row * count + codes[row * columns + k]];
  }
}

/// One block per row.
__global__ void add_outliers_kernel(const std::int32_t* rows, const std::int32_t* cols,
                                    const float* vals, std::int64_t columns, float* out) {
  const std::int64_t row = blockIdx.x;
  for (int i = rows[row] + static_cast<int>(threadIdx.x); i < rows[row + 1]; i += kThreads) {
    out[row * columns + cols[i]] += vals[i];
  }
}

/// Block b: elements kThreads b + t, + kThreads kParts ...
__global__ void error_kernel(CodebookErrors in, double* parts) {
  double error = 0.0;
  double norm = 0.0;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; i < in.elems;
       i += std::int64_t{kParts} * kThreads) {
    const double w = in.weight[i];
    const double difference = w - static_cast<double>(in.quantized[i]);
    error += in.fisher[i] * difference * difference;
    norm += in.fisher[i] * w * w;
  }
  error = block_sum(error);
  norm = block_sum(norm);
  if (threadIdx.x != 0) return;
  parts[blockIdx.x] = error;
  parts[kParts + blockIdx.x] = norm;
}

/// One thread per result.
__global__ void add_parts_kernel(const double* parts, double* result) {
  double sum = 0.0;
  for (int i = 0; i < kParts; ++i) sum += parts[threadIdx.x * kParts + i];
  result[threadIdx.x] = sum;
}

// Gains of one quarter of an octave are multiples of one power of two: their 53 bits are summed
// as two integers, exactly and in any order.
constexpr int kLeastExponent = -1074;
constexpr int kOctaves = 1024 - kLeastExponent;
constexpr int kFine = 4 * kOctaves;
constexpr int kLowBits = 26;
constexpr int kVisible = static_cast<int>(CodebookSolver::gain_bins);
constexpr int kFirstVisible =
    -4 * kLeastExponent - static_cast<int>(CodebookSolver::gain_offset);  // fine bin of bin 0

using Count = unsigned long long;

/// What is known of one quarter of an octave; [bins] each.
struct GainBins {
  Count* counts;
  Count* high;
  Count* low;
};

__device__ void add_gain(const GainBins& bins, int bin, Count bits) {
  atomicAdd(bins.counts + bin, Count{1});
  atomicAdd(bins.high + bin, bits >> kLowBits);
  atomicAdd(bins.low + bin, bits & ((Count{1} << kLowBits) - 1));
}

/// Shared bins where bins of the result are, memory's for what lies below and above.
__global__ void gains_kernel(CodebookErrors in, GainBins fine) {
  __shared__ Count shared[3][kVisible];
  const GainBins visible{shared[0], shared[1], shared[2]};
  for (int i = static_cast<int>(threadIdx.x); i < 3 * kVisible; i += kThreads) {
    shared[i / kVisible][i % kVisible] = 0;
  }
  __syncthreads();
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; i < in.elems;
       i += std::int64_t{gridDim.x} * kThreads) {
    const double difference =
        static_cast<double>(in.weight[i]) - static_cast<double>(in.quantized[i]);
    const double gain = in.fisher[i] * difference * difference;
    if (!(gain > 0.0) || !isfinite(gain)) continue;
    int exponent = 0;
    const double mantissa = 2.0 * frexp(gain, &exponent);  // [1, 2)
    const int quarter = (mantissa >= 0x1.306fe0a31b715p+0 ? 1 : 0) +
                        (mantissa >= 0x1.6a09e667f3bcdp+0 ? 1 : 0) +
                        (mantissa >= 0x1.ae89f995ad3adp+0 ? 1 : 0);
    const int bin = 4 * (exponent - 1 - kLeastExponent) + quarter;
    const Count bits = static_cast<Count>(mantissa * 0x1p52);
    const int seen = bin - kFirstVisible;
    if (seen >= 0 && seen < kVisible) {
      add_gain(visible, seen, bits);
    } else {
      add_gain(fine, bin, bits);
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kVisible; i += kThreads) {
    if (shared[0][i] == 0) continue;
    atomicAdd(fine.counts + kFirstVisible + i, shared[0][i]);
    atomicAdd(fine.high + kFirstVisible + i, shared[1][i]);
    atomicAdd(fine.low + kFirstVisible + i, shared[2][i]);
  }
}

__device__ double gain_sum(const GainBins& fine, int bin) {
  const double high = static_cast<double>(fine.high[bin]) * static_cast<double>(1 << kLowBits);
  return ldexp(high + static_cast<double>(fine.low[bin]), bin / 4 + kLeastExponent - 52);
}

/// One thread per bin; the first and the last one add what lies below and above, in order.
__global__ void fold_gains_kernel(GainBins fine, std::int64_t* counts, double* sums) {
  const int bin = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (bin >= kVisible) return;
  const int begin = bin == 0 ? 0 : kFirstVisible + bin;
  const int end = bin == kVisible - 1 ? kFine : kFirstVisible + bin + 1;
  Count count = 0;
  double sum = 0.0;
  for (int i = begin; i < end; ++i) {
    count += fine.counts[i];
    sum += fine.counts[i] == 0 ? 0.0 : gain_sum(fine, i);
  }
  counts[bin] = static_cast<std::int64_t>(count);
  sums[bin] = sum;
}

/// One block per row.
__global__ void row_sums_kernel(const float* fisher, std::int64_t columns, double* sums) {
  double sum = 0.0;
  for (std::int64_t k = threadIdx.x; k < columns; k += kThreads) {
    sum += static_cast<double>(fisher[std::int64_t{blockIdx.x} * columns + k]);
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

/// One thread per column.
__global__ void column_sums_kernel(const float* fisher, std::int64_t rows, std::int64_t columns,
                                   double* sums) {
  const std::int64_t k = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (k >= columns) return;
  double sum = 0.0;
  for (std::int64_t n = 0; n < rows; ++n) sum += static_cast<double>(fisher[n * columns + k]);
  sums[k] = sum;
}

/// One block per row that is filled.
__global__ void fill_kernel(const std::int64_t* rows, const float* profile, std::int64_t columns,
                            float* fisher) {
  float* row = fisher + rows[blockIdx.x] * columns;
  for (std::int64_t k = threadIdx.x; k < columns; k += kThreads) row[k] = profile[k];
}

std::vector<double> to_host(CudaContext& context, ConstTensorView view) {
  std::vector<double> host(static_cast<std::size_t>(view.elems()));
  context.memory.download(view, std::as_writable_bytes(std::span(host)));
  context.memory.synchronize();
  return host;
}

bool is_usable(const std::vector<double>& profile) {
  return std::any_of(profile.begin(), profile.end(), [](double value) { return value > 0.0; });
}

/// What rows without F of their own get; empty where nothing is known.
std::vector<double> column_profile(CudaContext& context, ConstTensorView fisher,
                                   std::optional<ConstTensorView> column_energy) {
  if (column_energy) {
    std::vector<double> profile = to_host(context, *column_energy);
    if (is_usable(profile)) return profile;
  }
  const std::int64_t columns = fisher.shape[1];
  Tensor sums = context.memory.allocate(DType::f64, {columns});
  column_sums_kernel<<<block_count(columns, kThreads), kThreads, 0, context.stream>>>(
      fisher.as<float>(), fisher.shape[0], columns, sums.view().as<double>());
  check_launch("fill_uninformed_rows");
  std::vector<double> profile = to_host(context, sums.view());
  return is_usable(profile) ? profile : std::vector<double>{};
}

void fill_rows(CudaContext& context, const std::vector<std::int64_t>& rows,
               const std::vector<float>& profile, TensorView fisher) {
  Memory& memory = context.memory;
  Tensor row_list = memory.allocate(DType::i64, {static_cast<std::int64_t>(rows.size())});
  Tensor values = memory.allocate(DType::f32, {fisher.shape[1]});
  memory.upload(std::as_bytes(std::span(rows)), row_list.view());
  memory.upload(std::as_bytes(std::span(profile)), values.view());
  fill_kernel<<<static_cast<unsigned>(rows.size()), kThreads, 0, context.stream>>>(
      row_list.view().as<std::int64_t>(), values.view().as<float>(), fisher.shape[1],
      fisher.as<float>());
  check_launch("fill_uninformed_rows");
  memory.synchronize();
}

}  // namespace

CodebookSolver::UninformedRows fill_uninformed_fisher(
    CudaContext& context, TensorView fisher, std::optional<ConstTensorView> column_energy) {
  const std::int64_t columns = fisher.shape[1];
  Tensor sums = context.memory.allocate(DType::f64, {fisher.shape[0]});
  row_sums_kernel<<<block_count(fisher.shape[0], 1), kThreads, 0, context.stream>>>(
      fisher.as<float>(), columns, sums.view().as<double>());
  check_launch("fill_uninformed_rows");
  const std::vector<double> row_sums = to_host(context, sums.view());
  std::vector<std::int64_t> empty;
  double least = std::numeric_limits<double>::infinity();
  for (std::size_t n = 0; n < row_sums.size(); ++n) {
    if (row_sums[n] > 0.0) {
      least = std::min(least, row_sums[n]);
    } else {
      empty.push_back(static_cast<std::int64_t>(n));
    }
  }
  if (empty.empty()) return {};
  std::vector<double> profile = column_profile(context, fisher, column_energy);
  const bool from_energy = !profile.empty();
  if (!from_energy) profile.assign(static_cast<std::size_t>(columns), 1.0);
  double total = 0.0;
  for (const double value : profile) total += value;
  const double scale = std::isfinite(least) ? least / total : 1.0;
  std::vector<float> filled;
  for (const double value : profile) {
    filled.push_back(static_cast<float>(
        std::min(value * scale, static_cast<double>(std::numeric_limits<float>::max()))));
  }
  fill_rows(context, empty, filled, fisher);
  const auto count = static_cast<std::int64_t>(empty.size());
  return from_energy ? CodebookSolver::UninformedRows{count, 0}
                     : CodebookSolver::UninformedRows{0, count};
}

void dequantize_codebook(CudaContext& context, const CodebookTensor& quantized, TensorView out) {
  if (out.elems() == 0) return;
  const unsigned rows = block_count(out.shape[0], 1);
  const std::int64_t columns = out.shape[1];
  dequantize_kernel<<<rows, kThreads, 0, context.stream>>>(
      quantized.codes.view().as<std::uint8_t>(), quantized.table.view().as<float>(), columns,
      quantized.table.shape()[1], out.as<float>());
  add_outliers_kernel<<<rows, kThreads, 0, context.stream>>>(
      quantized.rows.view().as<std::int32_t>(), quantized.cols.view().as<std::int32_t>(),
      quantized.vals.view().as<float>(), columns, out.as<float>());
  check_launch("dequantize");
}

void sum_weighted_error(CudaContext& context, const CodebookErrors& input, double* result) {
  Tensor parts = context.memory.allocate(DType::f64, {2, kParts});
  error_kernel<<<kParts, kThreads, 0, context.stream>>>(input, parts.view().as<double>());
  add_parts_kernel<<<1, 2, 0, context.stream>>>(parts.view().as<double>(), result);
  check_launch("weighted_error");
}

void count_error_gains(CudaContext& context, const CodebookErrors& input, TensorView counts,
                       TensorView sums) {
  Tensor bins = context.memory.allocate(DType::i64, {3, kFine});
  context.memory.clear(bins.view());
  auto* first = bins.view().as<Count>();
  const GainBins fine{first, first + kFine, first + 2 * kFine};
  gains_kernel<<<kParts, kThreads, 0, context.stream>>>(input, fine);
  fold_gains_kernel<<<block_count(kVisible, kThreads), kThreads, 0, context.stream>>>(
      fine, counts.as<std::int64_t>(), sums.as<double>());
  check_launch("count_gains");
}

}  // namespace quern::gpu
