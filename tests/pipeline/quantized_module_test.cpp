#include "pipeline/quantized_module.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "tests/support/paths.h"

namespace quern::test {
namespace {

using testing::ElementsAre;

/// [2, 8] of 4 bits in two unsorted groups, made by hand.
QuantizedModule sample(const std::string& name) {
  QuantizedModule module;
  module.name = name;
  module.out_features = 2;
  module.in_features = 8;
  module.bits = 4;
  module.group_size = 4;
  module.symmetric = false;
  module.words = HostTensor(DType::i32, {1, 2});
  module.words.as<std::int32_t>()[0] = 0x76543210;
  module.words.as<std::int32_t>()[1] = static_cast<std::int32_t>(0x89ABCDEFU);
  UniformGrid grid;
  grid.scales = HostTensor(DType::f16, {2, 2});
  std::ranges::copy(std::to_array<std::uint16_t>({0x3C00, 0x3800, 0x4000, 0x3400}),
                    grid.scales.as<std::uint16_t>().begin());
  grid.zeros = HostTensor(DType::u8, {2, 2});
  std::ranges::copy(std::to_array<std::uint8_t>({8, 9, 1, 0}),
                    grid.zeros.as<std::uint8_t>().begin());
  grid.group_of = HostTensor(DType::i32, {8});
  std::ranges::copy(std::to_array<std::int32_t>({1, 0, 0, 1, 1, 0, 1, 0}),
                    grid.group_of.as<std::int32_t>().begin());
  module.values = grid;
  module.metrics = {.relative_error = 0.125,
                    .objective = 0.0,
                    .damping_fraction = 0.01,
                    .dead_columns = 3,
                    .uninformed_rows = 0,
                    .dequantized_hash = "00ff"};
  return module;
}

/// [2, 32] of 2 bits with two outliers in row 1, made by hand. Row 0 counts 0 1 2 3 0 1 2 3 ...,
/// row 1 the other way round.
QuantizedModule codebook_sample(const std::string& name) {
  QuantizedModule module;
  module.name = name;
  module.out_features = 2;
  module.in_features = 32;
  module.bits = 2;
  module.outliers = 2;
  module.table_dtype = DType::f16;
  module.words = HostTensor(DType::i32, {2, 2});
  for (std::size_t word = 0; word < 2; ++word) {
    module.words.as<std::int32_t>()[2 * word] = static_cast<std::int32_t>(0xE4E4E4E4U);
    module.words.as<std::int32_t>()[2 * word + 1] = 0x1B1B1B1B;
  }
  Codebook codebook;
  codebook.table = HostTensor(DType::f32, {2, 4});
  std::ranges::copy(std::to_array<float>({-1, 0, 0.5, 2, -3, -0.25, 4, 8}),
                    codebook.table.as<float>().begin());
  codebook.rows = HostTensor(DType::i32, {3});
  std::ranges::copy(std::to_array<std::int32_t>({0, 0, 2}),
                    codebook.rows.as<std::int32_t>().begin());
  codebook.cols = HostTensor(DType::i32, {2});
  std::ranges::copy(std::to_array<std::int32_t>({2, 31}), codebook.cols.as<std::int32_t>().begin());
  codebook.vals = HostTensor(DType::f32, {2});
  std::ranges::copy(std::to_array<float>({100.25F, -7}), codebook.vals.as<float>().begin());
  module.values = codebook;
  module.metrics = {.relative_error = 0.25,
                    .objective = 17.5,
                    .damping_fraction = 0.0,
                    .dead_columns = 0,
                    .uninformed_rows = 1,
                    .dequantized_hash = "ff00"};
  return module;
}

void expect_same(const ModuleMetrics& a, const ModuleMetrics& b) {
  EXPECT_EQ(a.relative_error, b.relative_error);
  EXPECT_EQ(a.objective, b.objective);
  EXPECT_EQ(a.damping_fraction, b.damping_fraction);
  EXPECT_EQ(a.dead_columns, b.dead_columns);
  EXPECT_EQ(a.uninformed_rows, b.uninformed_rows);
  EXPECT_EQ(a.dequantized_hash, b.dequantized_hash);
}

void expect_same(const ModuleSummary& a, const ModuleSummary& b) {
  EXPECT_EQ(a.name, b.name);
  EXPECT_EQ(a.out_features, b.out_features);
  EXPECT_EQ(a.in_features, b.in_features);
  EXPECT_EQ(a.bits, b.bits);
  EXPECT_EQ(a.group_size, b.group_size);
  EXPECT_EQ(a.symmetric, b.symmetric);
  EXPECT_EQ(a.outliers, b.outliers);
  EXPECT_EQ(a.table_dtype, b.table_dtype);
  expect_same(a.metrics, b.metrics);
}

void expect_same(const HostTensor& a, const HostTensor& b) {
  EXPECT_EQ(a.dtype, b.dtype);
  EXPECT_EQ(a.shape, b.shape);
  EXPECT_EQ(a.bytes, b.bytes);
}

void expect_same(const QuantizedModule& a, const QuantizedModule& b) {
  expect_same(static_cast<const ModuleSummary&>(a), static_cast<const ModuleSummary&>(b));
  expect_same(a.words, b.words);
  ASSERT_EQ(a.values.index(), b.values.index());
  if (const auto* grid = std::get_if<UniformGrid>(&a.values)) {
    const auto& other = std::get<UniformGrid>(b.values);
    expect_same(grid->scales, other.scales);
    expect_same(grid->zeros, other.zeros);
    expect_same(grid->group_of, other.group_of);
    return;
  }
  const auto& codebook = std::get<Codebook>(a.values);
  const auto& other = std::get<Codebook>(b.values);
  expect_same(codebook.table, other.table);
  expect_same(codebook.rows, other.rows);
  expect_same(codebook.cols, other.cols);
  expect_same(codebook.vals, other.vals);
}

TEST(QuantizedModule, DequantizesToValuesComputedByHand) {
  // Row 0: scale 1, zero 8 in group 0; 2 and 1 in group 1. Row 1: 0.5 and 9; 0.25 and 0.
  EXPECT_THAT(dequantize_on_host(sample("m")).as<float>(),
              ElementsAre(-2, -7, -6, 4, 6, -3, 10, -1,  //
                          3.75, 2.5, 2, 3, 2.75, 0.5, 2.25, -0.5));
}

TEST(QuantizedModule, TablesAndOutliersAddUpToValuesComputedByHand) {
  const HostTensor weight = dequantize_on_host(codebook_sample("m"));
  ASSERT_EQ(weight.shape, (Shape{2, 32}));
  for (std::size_t k = 0; k < 32; ++k) {
    EXPECT_EQ(weight.as<float>()[k], std::to_array<float>({-1, 0, 0.5, 2})[k % 4]) << k;
    float expected = std::to_array<float>({8, 4, -0.25, -3})[k % 4];
    if (k == 2) expected += 100.25F;
    if (k == 31) expected -= 7.0F;
    EXPECT_EQ(weight.as<float>()[32 + k], expected) << k;
  }
}

TEST(QuantizedModule, BundlesKeepEverything) {
  const std::vector<QuantizedModule> modules = {sample("model.b"), codebook_sample("model.a")};
  const Bundle bundle = to_bundle(modules);
  EXPECT_TRUE(bundle.arrays.contains("model.b/words"));
  EXPECT_TRUE(bundle.arrays.contains("model.a/table"));
  const auto restored = from_bundle(bundle);
  ASSERT_EQ(restored.size(), 2U);
  expect_same(restored[0], modules[0]);
  expect_same(restored[1], modules[1]);
}

TEST(QuantizedModule, SurvivesTheFile) {
  const TemporaryDirectory directory;
  const std::vector<QuantizedModule> modules = {sample("model.layers.0.self_attn.q_proj"),
                                                codebook_sample("model.layers.0.mlp.up_proj")};
  const auto path = directory.path() / "bundle.h5";
  write_bundle_file(path, to_bundle(modules));
  const auto restored = from_bundle(read_bundle_file(path));
  ASSERT_EQ(restored.size(), 2U);
  expect_same(restored[0], modules[0]);
  expect_same(restored[1], modules[1]);
}

TEST(QuantizedModule, WithoutOutliersTheSparsePartIsEmptyAndSurvives) {
  const TemporaryDirectory directory;
  QuantizedModule module = codebook_sample("m");
  module.outliers = 0;
  auto& codebook = std::get<Codebook>(module.values);
  codebook.rows = HostTensor(DType::i32, {3});
  codebook.cols = HostTensor(DType::i32, {0});
  codebook.vals = HostTensor(DType::f32, {0});
  const auto path = directory.path() / "bundle.h5";
  write_bundle_file(path, to_bundle({module}));
  const auto restored = from_bundle(read_bundle_file(path));
  ASSERT_EQ(restored.size(), 1U);
  expect_same(restored[0], module);
}

TEST(QuantizedModule, SummariesAreReadWithoutTheArrays) {
  const std::vector<QuantizedModule> modules = {sample("b"), codebook_sample("a")};
  Bundle bundle = to_bundle(modules);
  bundle.arrays.clear();
  const nlohmann::json rows = summary_rows(bundle.attributes);
  ASSERT_EQ(rows.size(), 2U);
  expect_same(read_summary(rows[0]), static_cast<const ModuleSummary&>(modules[0]));
  expect_same(read_summary(rows[1]), static_cast<const ModuleSummary&>(modules[1]));
  EXPECT_EQ(rows[0].at("values"), "uniform");
  EXPECT_EQ(rows[1].at("values"), "codebook");
}

TEST(QuantizedModule, AForeignBundleIsRefused) {
  EXPECT_THROW(from_bundle({"{}", {}}), InternalError);
  EXPECT_THROW(from_bundle({"not json", {}}), InternalError);
  const QuantizedModule module = sample("m");
  Bundle bundle = to_bundle({module});
  bundle.arrays.erase("m/zeros");
  EXPECT_THROW(from_bundle(bundle), InternalError);
  const QuantizedModule tables = codebook_sample("m");
  bundle = to_bundle({tables});
  bundle.arrays.erase("m/vals");
  EXPECT_THROW(from_bundle(bundle), InternalError);
}

}  // namespace
}  // namespace quern::test
