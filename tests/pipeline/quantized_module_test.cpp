#include "pipeline/quantized_module.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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
  module.scales = HostTensor(DType::f16, {2, 2});
  std::ranges::copy(std::to_array<std::uint16_t>({0x3C00, 0x3800, 0x4000, 0x3400}),
                    module.scales.as<std::uint16_t>().begin());
  module.zeros = HostTensor(DType::u8, {2, 2});
  std::ranges::copy(std::to_array<std::uint8_t>({8, 9, 1, 0}),
                    module.zeros.as<std::uint8_t>().begin());
  module.group_of = HostTensor(DType::i32, {8});
  std::ranges::copy(std::to_array<std::int32_t>({1, 0, 0, 1, 1, 0, 1, 0}),
                    module.group_of.as<std::int32_t>().begin());
  module.metrics = {0.125, 0.01, 3, "00ff"};
  return module;
}

void expect_same(const QuantizedModule& a, const QuantizedModule& b) {
  EXPECT_EQ(a.name, b.name);
  EXPECT_EQ(a.out_features, b.out_features);
  EXPECT_EQ(a.in_features, b.in_features);
  EXPECT_EQ(a.bits, b.bits);
  EXPECT_EQ(a.group_size, b.group_size);
  EXPECT_EQ(a.symmetric, b.symmetric);
  EXPECT_EQ(a.words.bytes, b.words.bytes);
  EXPECT_EQ(a.scales.bytes, b.scales.bytes);
  EXPECT_EQ(a.zeros.bytes, b.zeros.bytes);
  EXPECT_EQ(a.group_of.bytes, b.group_of.bytes);
  EXPECT_EQ(a.scales.shape, b.scales.shape);
  EXPECT_EQ(a.metrics.relative_error, b.metrics.relative_error);
  EXPECT_EQ(a.metrics.damping_fraction, b.metrics.damping_fraction);
  EXPECT_EQ(a.metrics.dead_columns, b.metrics.dead_columns);
  EXPECT_EQ(a.metrics.dequantized_hash, b.metrics.dequantized_hash);
}

TEST(QuantizedModule, DequantizesToValuesComputedByHand) {
  // Row 0: scale 1, zero 8 in group 0; 2 and 1 in group 1. Row 1: 0.5 and 9; 0.25 and 0.
  EXPECT_THAT(dequantize_on_host(sample("m")).as<float>(),
              ElementsAre(-2, -7, -6, 4, 6, -3, 10, -1,  //
                          3.75, 2.5, 2, 3, 2.75, 0.5, 2.25, -0.5));
}

TEST(QuantizedModule, BundlesKeepEverything) {
  const std::vector<QuantizedModule> modules = {sample("model.b"), sample("model.a")};
  const Bundle bundle = to_bundle(modules);
  EXPECT_TRUE(bundle.arrays.contains("model.b/words"));
  const auto restored = from_bundle(bundle);
  ASSERT_EQ(restored.size(), 2U);
  expect_same(restored[0], modules[0]);
  expect_same(restored[1], modules[1]);
}

TEST(QuantizedModule, SurvivesTheFile) {
  const TemporaryDirectory directory;
  const QuantizedModule module = sample("model.layers.0.self_attn.q_proj");
  const auto path = directory.path() / "bundle.h5";
  write_bundle_file(path, to_bundle(std::span(&module, 1)));
  const auto restored = from_bundle(read_bundle_file(path));
  ASSERT_EQ(restored.size(), 1U);
  expect_same(restored[0], module);
}

TEST(QuantizedModule, AForeignBundleIsRefused) {
  EXPECT_THROW(from_bundle({"{}", {}}), InternalError);
  EXPECT_THROW(from_bundle({"not json", {}}), InternalError);
  const QuantizedModule module = sample("m");
  Bundle bundle = to_bundle(std::span(&module, 1));
  bundle.arrays.erase("m/zeros");
  EXPECT_THROW(from_bundle(bundle), InternalError);
}

}  // namespace
}  // namespace quern::test
