#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/core/error.h"
#include "tests/kernels/cpu/codebook_case.h"
#include "tests/support/paths.h"

namespace quern::test {
namespace {

class CodebookCluster : public testing::Test {
 protected:
  /// The paper's rule with room for `count` outliers, half of them by magnitude.
  Tensor paper_mask(const CodebookCase& module, std::int64_t count) {
    Tensor mask = memory_.allocate(DType::u8, module.weight.shape());
    solver_->choose_outliers(module.weight.view(), module.fisher.view(), {count, std::nullopt},
                             mask.view());
    return mask;
  }

  CodebookTensor clustered(const CodebookCase& module, const Tensor& mask,
                           const CodebookSpec& spec) {
    return solver_->cluster(module.weight.view(), module.fisher.view(), mask.view(), spec);
  }

  CpuMemory memory_;
  std::unique_ptr<CodebookSolver> solver_ = make_cpu_codebook_solver(memory_, 1);
};

TEST_F(CodebookCluster, GoldenRow) {
  // Four clusters: {-8, -7}, {0}, {1, 1}, {10 with F 3, 12 with F 1}; 5 has no say, and is nearer
  // to 1; a weight halfway goes to the lower code.
  Matrix w(1, 9);
  w.values = {10, 1, -8, 0, 12, 1, -7, 5, 5.75};
  Matrix f(1, 9);
  f.values = {3, 1, 1, 1, 1, 1, 1, 0, 0};
  const CodebookCase module = make_case(memory_, DType::bf16, w, f);
  const CodebookTensor result =
      solver_->cluster(module.weight.view(), module.fisher.view(), std::nullopt, {2, DType::f32});
  const auto* table = result.table.view().as<float>();
  const auto* codes = result.codes.view().as<std::uint8_t>();
  // {0} and {1, 1} cost 2/3 together, {10, 12} costs 3, {-8, -7} costs 1/2: 10 and 12 part.
  EXPECT_EQ(std::vector<float>(table, table + 4), (std::vector<float>{-7.5F, 2.0F / 3.0F, 10, 12}));
  EXPECT_EQ(std::vector<int>(codes, codes + 9), (std::vector<int>{2, 1, 0, 1, 3, 1, 0, 1, 2}));
  EXPECT_EQ(result.rows.view().as<std::int32_t>()[1], 0);
}

TEST_F(CodebookCluster, HalfwayGoesToTheLowerCodeAndFewValuesRepeatTheLast) {
  Matrix w(1, 4);
  w.values = {1, 3, 2, -0.0};
  Matrix f(1, 4);
  f.values = {1, 1, 0, 0};
  const CodebookCase module = make_case(memory_, DType::f16, w, f);
  const CodebookTensor result =
      solver_->cluster(module.weight.view(), module.fisher.view(), std::nullopt, {3, DType::f16});
  const auto* table = result.table.view().as<float>();
  const auto* codes = result.codes.view().as<std::uint8_t>();
  EXPECT_EQ(std::vector<float>(table, table + 8), (std::vector<float>{1, 3, 3, 3, 3, 3, 3, 3}));
  EXPECT_EQ(std::vector<int>(codes, codes + 4), (std::vector<int>{0, 1, 0, 0}));
}

TEST_F(CodebookCluster, SoundForAllTypesAndWidths) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::f64}) {
    for (const DType table : {DType::f32, DType::f16}) {
      for (const std::int64_t columns : {1, 31, 33, 129}) {
        for (const int bits : {2, 3, 4, 8}) {
          const CodebookCase module = random_case(memory_, dtype, 5, columns, 31);
          const CodebookSpec spec{bits, table};
          const CodebookTensor result = clustered(module, paper_mask(module, columns / 8), spec);
          expect_sound(module, result, spec);
          EXPECT_LE(decode(result).outliers, columns / 8);
        }
      }
    }
  }
}

TEST_F(CodebookCluster, EveryWeightHasItsNearestCentroid) {
  const CodebookCase module = random_case(memory_, DType::bf16, 6, 700, 8);
  const CodebookTensor result = clustered(module, paper_mask(module, 40), {4, DType::f16});
  const Decoded decoded = decode(result);
  for (std::int64_t n = 0; n < 6; ++n) {
    const float* table = result.table.view().as<float>() + n * 16;
    for (std::int64_t k = 0; k < 700; ++k) {
      int nearest = 0;
      for (int c = 1; c < 16; ++c) {
        const auto distance = [&](int code) {
          return std::fabs(module.w(n, k) - static_cast<double>(table[code]));
        };
        if (distance(c) < distance(nearest)) nearest = c;
      }
      if (decoded.outlier(n, k) != 0.0) continue;
      ASSERT_EQ(result.codes.view().as<std::uint8_t>()[n * 700 + k], nearest);
    }
  }
}

TEST_F(CodebookCluster, AnOutlierFarBelowTheTableIsNotKeptApart) {
  Matrix w(1, 6);
  w.values = {1.0078125, 0x1p-30, 2, 3, 4, 100};
  Matrix f(1, 6);
  f.values = {1, 1, 1, 1, 1, 1};
  const CodebookCase module = make_case(memory_, DType::bf16, w, f);
  Tensor mask = memory_.allocate(DType::u8, {1, 6});
  memory_.clear(mask.view());
  mask.view().as<std::uint8_t>()[1] = mask.view().as<std::uint8_t>()[5] = 1;
  const CodebookTensor result = clustered(module, mask, {2, DType::f32});
  ASSERT_EQ(result.cols.view().elems(), 1);
  EXPECT_EQ(result.cols.view().as<std::int32_t>()[0], 5);
  expect_sound(module, result, {2, DType::f32});
}

TEST_F(CodebookCluster, ARowOfOutliersOnlyIsExact) {
  const CodebookCase module = random_case(memory_, DType::bf16, 2, 9, 4);
  const CodebookTensor result = clustered(module, paper_mask(module, 18), {3, DType::f32});
  EXPECT_EQ(decode(result).values.values, module.w.values);
}

TEST_F(CodebookCluster, JointlyIsBelowThePaperAtAsManyOutliers) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    const CodebookCase module = random_case(memory_, dtype, 24, 512, 77);
    for (const std::int64_t count : {1, 55, 400}) {
      Tensor mask = paper_mask(module, count);
      const CodebookSpec spec{3, DType::f32};
      const double paper = weighted_error_of(module, clustered(module, mask, spec));
      const CodebookTensor joint = solver_->cluster_jointly(
          module.weight.view(), module.fisher.view(), mask.view(), count, spec);
      expect_sound(module, joint, spec);
      const Decoded decoded = decode(joint);
      EXPECT_LE(decoded.outliers, count);
      const double error = weighted_error_of(module, joint);
      // One weight may be the best choice already.
      EXPECT_TRUE(error < paper || (count == 1 && error == paper));
      for (std::size_t i = 0; i < decoded.outlier.values.size(); ++i) {
        ASSERT_EQ(mask.view().as<std::uint8_t>()[i], decoded.outlier.values[i]);
      }
    }
  }
}

TEST_F(CodebookCluster, JointlyWithNoneIsTheDenseOptimumWhateverTheMask) {
  const CodebookCase module = random_case(memory_, DType::bf16, 7, 129, 2);
  Tensor mask = paper_mask(module, 30);
  const CodebookSpec spec{4, DType::f32};
  const CodebookTensor joint =
      solver_->cluster_jointly(module.weight.view(), module.fisher.view(), mask.view(), 0, spec);
  const CodebookTensor dense =
      solver_->cluster(module.weight.view(), module.fisher.view(), std::nullopt, spec);
  EXPECT_EQ(bytes_of(joint), bytes_of(dense));
}

TEST_F(CodebookCluster, JointlyOnARealModule) {
  if (shared_dir().empty()) GTEST_SKIP() << kNoShared;
  const RealModule real = real_module(memory_, "llama3m", "model.layers.1.self_attn.q_proj");
  const std::int64_t count = real.module.w.rows * real.module.w.columns * 45 / 10000;
  Tensor mask = paper_mask(real.module, count);
  const CodebookSpec spec{3, DType::f32};
  const double paper = weighted_error_of(real.module, clustered(real.module, mask, spec));
  const CodebookTensor joint = solver_->cluster_jointly(
      real.module.weight.view(), real.module.fisher.view(), mask.view(), count, spec);
  expect_sound(real.module, joint, spec);
  EXPECT_LE(decode(joint).outliers, count);
  EXPECT_LT(weighted_error_of(real.module, joint), 0.95 * paper);
}

TEST_F(CodebookCluster, SameBytesOnAnyThreads) {
  const auto run = [](int threads) {
    CpuMemory memory;
    const auto solver = make_cpu_codebook_solver(memory, threads);
    const CodebookCase module = random_case(memory, DType::bf16, 37, 200, 19);
    Tensor mask = memory.allocate(DType::u8, {37, 200});
    solver->choose_outliers(module.weight.view(), module.fisher.view(), {30, 2.0}, mask.view());
    return bytes_of(solver->cluster_jointly(module.weight.view(), module.fisher.view(), mask.view(),
                                            60, {3, DType::f32}));
  };
  const auto single = run(1);
  for (const int threads : {2, 3, 8}) EXPECT_EQ(run(threads), single) << threads;
}

TEST_F(CodebookCluster, InfiniteWeightsAreRefusedWithTheirRow) {
  CodebookCase module = random_case(memory_, DType::f32, 4, 10, 1);
  module.weight.view().as<float>()[23] = std::numeric_limits<float>::infinity();
  try {
    solver_->cluster(module.weight.view(), module.fisher.view(), std::nullopt, {});
    FAIL() << "expected an InputError";
  } catch (const InputError& error) {
    EXPECT_NE(std::string(error.what()).find("row 2 of 4"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace quern::test
