#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <random>

#include "kernels/core/error.h"
#include "tests/kernels/cuda/module_case.h"

namespace quern::test {
namespace {

struct ModuleShape {
  std::int64_t rows, columns;
  DType dtype;
};
const std::vector<ModuleShape> kShortRows = {
    {1, 1, DType::f32}, {31, 33, DType::bf16}, {9, 127, DType::f16}, {33, 129, DType::f64}};
constexpr ModuleShape kManyRows{70, 512, DType::bf16};
constexpr ModuleShape kLongRows{2, 5000, DType::f32};
constexpr ModuleShape kRowsBeyondSharedMemory{2, 9000, DType::f32};

std::vector<ModuleShape> all_shapes() {
  std::vector<ModuleShape> shapes = kShortRows;
  shapes.insert(shapes.end(), {kManyRows, kLongRows, kRowsBeyondSharedMemory});
  return shapes;
}

class CudaCodebookTest : public CudaModuleCase {
 protected:
  /// weight and fisher of a module on the CUDA device.
  struct OnCuda {
    Tensor weight;
    Tensor fisher;
  };
  OnCuda move(const CodebookCase& module) {
    return {to_cuda(module.weight), to_cuda(module.fisher)};
  }

  /// About one weight in `every` masked.
  Tensor random_mask(const Shape& shape, int every) {
    std::mt19937 engine(5);
    Tensor mask = cpu().memory().allocate(DType::u8, shape);
    for (std::int64_t i = 0; i < shape.elems(); ++i) {
      mask.view().as<std::uint8_t>()[i] = engine() % static_cast<unsigned>(every) == 0 ? 1 : 0;
    }
    return mask;
  }

  /// The same objective to 1e-9, and what the format promises; codes may differ in rows of ties.
  void expect_same_optimum(const CodebookCase& module, const CodebookTensor& actual,
                           const CodebookTensor& expected, const CodebookSpec& spec) {
    const CodebookTensor on_cpu = moved(cuda(), cpu(), actual);
    expect_sound(module, on_cpu, spec);
    const double right = weighted_error_of(module, expected);
    EXPECT_NEAR(weighted_error_of(module, on_cpu), right, 1e-9 * right);
    EXPECT_LE(differing_rows(on_cpu.codes, expected.codes), module.w.rows / 50);
    EXPECT_EQ(on_cpu.cols.shape(), expected.cols.shape());
  }

  /// With every width, either type of table, with and without outliers.
  void cluster_like_the_cpu(const ModuleShape& shape) {
    const auto [rows, columns, dtype] = shape;
    const CodebookCase module = random_case(cpu().memory(), dtype, rows, columns, 1);
    const OnCuda on_cuda = move(module);
    const Tensor mask = random_mask({rows, columns}, 40);
    const Tensor cuda_mask = to_cuda(mask);
    for (const int bits : {2, 3, 4, 8}) {
      for (const DType table : {DType::f32, DType::f16}) {
        for (const bool masked : {false, true}) {
          SCOPED_TRACE(testing::Message() << rows << " x " << columns << ", " << bits << " bits");
          const auto at = [masked](const Tensor& tensor) {
            return masked ? std::optional(tensor.view()) : std::nullopt;
          };
          const CodebookSpec spec{bits, table};
          const CodebookTensor expected =
              cpu().codebooks().cluster(module.weight.view(), module.fisher.view(), at(mask), spec);
          const CodebookTensor actual = cuda().codebooks().cluster(
              on_cuda.weight.view(), on_cuda.fisher.view(), at(cuda_mask), spec);
          expect_same_optimum(module, actual, expected, spec);
        }
      }
    }
  }
};

// One test for each kind of rows: under compute-sanitizer all of them take too long for one
// process.
TEST_P(CudaCodebookTest, ClustersShortRowsToTheSameOptimum) {
  for (const ModuleShape& shape : kShortRows) cluster_like_the_cpu(shape);
}

TEST_P(CudaCodebookTest, ClustersManyRowsToTheSameOptimum) {
  cluster_like_the_cpu(kManyRows);
}

TEST_P(CudaCodebookTest, ClustersLongRowsToTheSameOptimum) {
  cluster_like_the_cpu(kLongRows);
}

TEST_P(CudaCodebookTest, ClustersRowsBeyondSharedMemoryToTheSameOptimum) {
  cluster_like_the_cpu(kRowsBeyondSharedMemory);
}

TEST_P(CudaCodebookTest, ClustersOddRows) {
  // Few distinct weights, all equal ones, signed zeros, rows without F, a row masked as a whole.
  Matrix w(5, 64);
  Matrix f(5, 64);
  for (std::int64_t k = 0; k < 64; ++k) {
    w(0, k) = static_cast<double>(k % 3);
    w(1, k) = -0.5;
    w(2, k) = k % 2 == 0 ? 0.0 : -0.0;
    w(3, k) = static_cast<double>(k) / 64.0;
    w(4, k) = static_cast<double>(k) - 32.0;
    for (std::int64_t n = 0; n < 5; ++n) f(n, k) = n == 3 ? 0.0 : 1.0 + static_cast<double>(k);
  }
  const CodebookCase module = make_case(cpu().memory(), DType::bf16, w, f);
  const OnCuda on_cuda = move(module);
  Tensor mask = cpu().memory().allocate(DType::u8, {5, 64});
  cpu().memory().clear(mask.view());
  std::fill_n(mask.view().as<std::uint8_t>() + 4 * 64, 64, std::uint8_t{1});
  const Tensor cuda_mask = to_cuda(mask);
  const CodebookSpec spec{2, DType::f32};
  const CodebookTensor expected =
      cpu().codebooks().cluster(module.weight.view(), module.fisher.view(), mask.view(), spec);
  const CodebookTensor actual =
      moved(cuda(), cpu(),
            cuda().codebooks().cluster(on_cuda.weight.view(), on_cuda.fisher.view(),
                                       cuda_mask.view(), spec));
  EXPECT_EQ(bytes_of(actual), bytes_of(expected));
}

TEST_P(CudaCodebookTest, RefusesWeightsThatAreNotFinite) {
  CodebookCase module = random_case(cpu().memory(), DType::f32, 4, 40, 2);
  module.weight.view().as<float>()[2 * 40 + 7] = std::numeric_limits<float>::infinity();
  const OnCuda on_cuda = move(module);
  EXPECT_THROW(
      cuda().codebooks().cluster(on_cuda.weight.view(), on_cuda.fisher.view(), std::nullopt, {}),
      InputError);
  Tensor counts = cuda().memory().allocate(DType::i64, {CodebookSolver::range_bins});
  EXPECT_THROW(cuda().codebooks().count_ranges(on_cuda.weight.view(), counts.view()), InputError);
}

TEST_P(CudaCodebookTest, ChoosesTheSameOutliers) {
  for (const auto& [rows, columns, dtype] : all_shapes()) {
    CodebookCase module = random_case(cpu().memory(), dtype, rows, columns, 3);
    // Many equal F, so that ties at the limit have to be broken by their index.
    auto* fisher = module.fisher.view().as<float>();
    for (std::int64_t i = 0; i < rows * columns; ++i) fisher[i] = static_cast<float>(i * 7 % 5);
    const OnCuda on_cuda = move(module);
    for (const std::int64_t sensitive :
         {std::int64_t{0}, std::int64_t{1}, rows * columns / 3, rows * columns + 5}) {
      for (const double range : {-1.0, 0.0, 0.7, 3.0}) {
        OutlierRule rule{sensitive, std::nullopt};
        if (range >= 0.0) rule.quartile_range = range;
        Tensor expected = cpu().memory().allocate(DType::u8, {rows, columns});
        Tensor actual = cuda().memory().allocate(DType::u8, {rows, columns});
        cpu().codebooks().choose_outliers(module.weight.view(), module.fisher.view(), rule,
                                          expected.view());
        cuda().codebooks().choose_outliers(on_cuda.weight.view(), on_cuda.fisher.view(), rule,
                                           actual.view());
        EXPECT_TRUE(same_bytes(to_cpu(actual), expected)) << sensitive << " " << range;
      }
    }
  }
}

TEST_P(CudaCodebookTest, CountsTheSameRanges) {
  for (const auto& [rows, columns, dtype] : all_shapes()) {
    const CodebookCase module = random_case(cpu().memory(), dtype, rows, columns, 4);
    const OnCuda on_cuda = move(module);
    Tensor expected = cpu().memory().allocate(DType::i64, {CodebookSolver::range_bins});
    cpu().memory().clear(expected.view());
    Tensor actual = to_cuda(expected);
    for (int time = 0; time < 2; ++time) {
      cpu().codebooks().count_ranges(module.weight.view(), expected.view());
      cuda().codebooks().count_ranges(on_cuda.weight.view(), actual.view());
    }
    EXPECT_TRUE(same_bytes(to_cpu(actual), expected));
  }
}

TEST_P(CudaCodebookTest, ClustersJointlyLikeTheCpu) {
  const CodebookCase module = random_case(cpu().memory(), DType::bf16, 33, 512, 6);
  const OnCuda on_cuda = move(module);
  for (const std::int64_t outliers : {0, 1, 80}) {
    Tensor mask = cpu().memory().allocate(DType::u8, {33, 512});
    cpu().memory().clear(mask.view());
    Tensor cuda_mask = to_cuda(mask);
    const CodebookSpec spec{3, DType::f16};
    const CodebookTensor expected = cpu().codebooks().cluster_jointly(
        module.weight.view(), module.fisher.view(), mask.view(), outliers, spec);
    const CodebookTensor actual = cuda().codebooks().cluster_jointly(
        on_cuda.weight.view(), on_cuda.fisher.view(), cuda_mask.view(), outliers, spec);
    expect_same_optimum(module, actual, expected, spec);
    EXPECT_TRUE(same_bytes(to_cpu(cuda_mask), mask));
  }
}

TEST_P(CudaCodebookTest, DequantizesAndMeasuresLikeTheCpu) {
  const CodebookCase module = random_case(cpu().memory(), DType::bf16, 65, 129, 7);
  const OnCuda on_cuda = move(module);
  const Tensor mask = random_mask({65, 129}, 20);
  const CodebookTensor quantized = cpu().codebooks().cluster(
      module.weight.view(), module.fisher.view(), mask.view(), {3, DType::f32});
  Twin out = poisoned(DType::f32, {65, 129});
  cpu().codebooks().dequantize(quantized, out.cpu.view());
  cuda().codebooks().dequantize(moved(cpu(), cuda(), quantized), out.cuda.view());
  expect_close(out, {0.0, 0.0});

  Tensor expected = cpu().memory().allocate(DType::f64, {2});
  Tensor actual = cuda().memory().allocate(DType::f64, {2});
  cpu().codebooks().weighted_error(module.weight.view(), out.cpu.view(), module.fisher.view(),
                                   expected.view());
  cuda().codebooks().weighted_error(on_cuda.weight.view(), out.cuda.view(), on_cuda.fisher.view(),
                                    actual.view());
  const std::vector<double> errors = elements<double>(to_cpu(actual));
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_NEAR(errors[i], elements<double>(expected)[i], 1e-12 * elements<double>(expected)[i]);
  }
}

TEST_P(CudaCodebookTest, CountsTheSameGains) {
  CodebookCase module = random_case(cpu().memory(), DType::f32, 33, 200, 8);
  auto* fisher = module.fisher.view().as<float>();
  fisher[0] = 1e30F;   // beyond the last bin
  fisher[1] = 1e-40F;  // below the first one
  fisher[2] = 0.0F;
  module.weight.view().as<float>()[1] = 1e-20F;
  const OnCuda on_cuda = move(module);
  const Twin zero = stored(DType::f32, {33, 200}, std::vector<double>(33 * 200));
  Tensor counts = cpu().memory().allocate(DType::i64, {CodebookSolver::gain_bins});
  Tensor sums = cpu().memory().allocate(DType::f64, {CodebookSolver::gain_bins});
  Tensor cuda_counts = cuda().memory().allocate(DType::i64, {CodebookSolver::gain_bins});
  Tensor cuda_sums = cuda().memory().allocate(DType::f64, {CodebookSolver::gain_bins});
  cpu().codebooks().count_gains(module.weight.view(), zero.cpu.view(), module.fisher.view(),
                                counts.view(), sums.view());
  cuda().codebooks().count_gains(on_cuda.weight.view(), zero.cuda.view(), on_cuda.fisher.view(),
                                 cuda_counts.view(), cuda_sums.view());
  EXPECT_TRUE(same_bytes(to_cpu(cuda_counts), counts));
  const std::vector<double> right = elements<double>(sums);
  const std::vector<double> got = elements<double>(to_cpu(cuda_sums));
  for (std::size_t bin = 0; bin < right.size(); ++bin) {
    EXPECT_NEAR(got[bin], right[bin], 1e-12 * right[bin]) << bin;
  }
}

TEST_P(CudaCodebookTest, FillsUninformedRowsLikeTheCpu) {
  for (const bool with_energy : {false, true}) {
    for (const bool informed : {false, true}) {
      std::vector<double> f(7 * 33);
      for (std::size_t i = 0; i < f.size(); ++i) {
        f[i] = informed && i / 33 % 2 == 0 ? 1e-6 * static_cast<double>(i % 11) : 0.0;
      }
      Tensor fisher = store(cpu().memory(), DType::f32, {7, 33}, f);
      Tensor cuda_fisher = to_cuda(fisher);
      std::vector<double> e(33, 0.5);
      e[3] = 2.0;
      const Tensor energy = store(cpu().memory(), DType::f64, {33}, e);
      const Tensor cuda_energy = to_cuda(energy);
      const auto at = [with_energy](const Tensor& tensor) {
        return with_energy ? std::optional(tensor.view()) : std::nullopt;
      };
      const auto expected = cpu().codebooks().fill_uninformed_rows(fisher.view(), at(energy));
      const auto actual =
          cuda().codebooks().fill_uninformed_rows(cuda_fisher.view(), at(cuda_energy));
      EXPECT_EQ(actual.from_energy, expected.from_energy);
      EXPECT_EQ(actual.from_ones, expected.from_ones);
      expect_close({std::move(fisher), std::move(cuda_fisher)}, {2 * kFloatRounding, 0.0});
    }
  }
}

Matrix with_damping(Matrix h, double damping) {
  double trace = 0.0;
  for (std::int64_t k = 0; k < h.rows; ++k) trace += h(k, k);
  for (std::int64_t k = 0; k < h.rows; ++k) {
    h(k, k) += damping * trace / static_cast<double>(h.rows);
  }
  return h;
}

/// sum_n s_n (w - q)_n H (w - q)_n^T with s_n the row sum of F.
double refined_error(const CodebookCase& module, const CodebookTensor& quantized, const Matrix& h) {
  Matrix error = decode(quantized).values;
  double total = 0.0;
  for (std::int64_t n = 0; n < error.rows; ++n) {
    double scale = 0.0;
    for (std::int64_t k = 0; k < error.columns; ++k) {
      error(n, k) = module.w(n, k) - error(n, k);
      scale += module.f(n, k);
    }
    total += scale * row_error(error, h, n);
  }
  return total;
}

TEST_P(CudaCodebookTest, RefinesAsFarAsTheCpu) {
  for (const auto& [rows, columns, bits] :
       std::vector<std::array<std::int64_t, 3>>{{1, 31, 2}, {33, 129, 3}, {70, 300, 4}}) {
    const CodebookCase module = random_case(cpu().memory(), DType::bf16, rows, columns, 9);
    const OnCuda on_cuda = move(module);
    TwinGram h = gram(columns, 10);
    const CodebookSpec spec{static_cast<int>(bits), DType::f32};
    const Tensor mask = random_mask({rows, columns}, 100);
    const CodebookTensor start =
        cpu().codebooks().cluster(module.weight.view(), module.fisher.view(), mask.view(), spec);
    const CodebookTensor cuda_start = moved(cpu(), cuda(), start);
    for (const RefineOptions& options :
         {RefineOptions{0, 0, false}, RefineOptions{1, 0, false}, RefineOptions{4, 4, true},
          RefineOptions{1, 0, false, 0.5}, RefineOptions{4, 4, true, 0.5}}) {
      const CodebookTensor expected = cpu().codebooks().refine(
          module.weight.view(), module.fisher.view(), h.cpu.view(), start, spec, options);
      const CodebookTensor actual =
          moved(cuda(), cpu(),
                cuda().codebooks().refine(on_cuda.weight.view(), on_cuda.fisher.view(),
                                          h.cuda.view(), cuda_start, spec, options));
      expect_sound(module, actual, spec);
      const Matrix damped = with_damping(h.cpu.h, options.damping);
      const double before = refined_error(module, start, damped);
      const double right = refined_error(module, expected, damped);
      const double got = refined_error(module, actual, damped);
      EXPECT_LE(got, before * (1.0 + 1e-12));
      // Rounding decides ties of the descent, after which two runs part: both end as low.
      EXPECT_NEAR(got, right, (options.rounds > 1 ? 1e-2 : 1e-6) * right);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Codebooks, CudaCodebookTest, testing::Values(DType::bf16), type_name);

}  // namespace
}  // namespace quern::test
