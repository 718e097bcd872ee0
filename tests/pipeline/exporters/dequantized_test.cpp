#include "pipeline/exporters/dequantized.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/pipeline/model/table_modules.h"
#include "tests/pipeline/small_graph.h"

namespace quern::test {
namespace {

using testing::ElementsAre;

/// [1, 8] of 4 bits: codes 0 .. 7, zero 3, scale 1.5 and 257/256, which bf16 does not hold.
QuantizedModule ramp(std::uint16_t scale) {
  QuantizedModule module;
  module.name = std::string("m");
  module.out_features = 1;
  module.in_features = 8;
  module.bits = 4;
  module.group_size = -1;
  module.words = HostTensor(DType::i32, {1, 1});
  module.words.as<std::int32_t>()[0] = 0x76543210;
  UniformGrid grid{HostTensor(DType::f16, {1, 1}), HostTensor(DType::u8, {1, 1}),
                   HostTensor(DType::i32, {8})};
  grid.scales.as<std::uint16_t>()[0] = scale;
  grid.zeros.as<std::uint8_t>()[0] = 3;
  module.values = std::move(grid);
  return module;
}

TEST(DequantizedExporter, WritesTheWeightInTheModelsType) {
  const auto exporter = make_dequantized_exporter({});
  const auto single = exporter->tensors(ramp(0x3E00), DType::f32);
  ASSERT_EQ(single.size(), 1U);
  EXPECT_EQ(single[0].name, "m.weight");
  EXPECT_THAT(single[0].tensor.as<float>(), ElementsAre(-4.5, -3, -1.5, 0, 1.5, 3, 4.5, 6));
  const auto half = exporter->tensors(ramp(0x3E00), DType::f16);
  EXPECT_THAT(half[0].tensor.as<std::uint16_t>(),
              ElementsAre(0xC480, 0xC200, 0xBE00, 0, 0x3E00, 0x4200, 0x4480, 0x4600));
}

TEST(DequantizedExporter, RoundsToTheNearestAndTiesToEven) {
  const auto exporter = make_dequantized_exporter({});
  // 257/256 = 1.00390625 is the middle of 1 and 1.0078125 in bf16: 1 has the even last bit.
  // Times 3: 3.01171875 is between 3 and 3.015625, nearer to the latter.
  const auto tensors = exporter->tensors(ramp(0x3C04), DType::bf16);
  const auto values = tensors[0].tensor.as<std::uint16_t>();
  EXPECT_EQ(values[4], 0x3F80);
  EXPECT_EQ(values[6], 0x4041);
  EXPECT_EQ(values[0], 0xC041);
}

TEST(DequantizedExporter, TablesAndOutliersAreDecodedToo) {
  const auto exporter = make_dequantized_exporter({});
  for (const int bits : {2, 3, 4, 8}) {
    const TableModule made = make_table_module({.bits = bits});
    const auto tensors = exporter->tensors(made.module, DType::f32);
    EXPECT_THAT(tensors[0].tensor.as<float>(), testing::ElementsAreArray(made.weight)) << bits;
  }
}

TEST(DequantizedExporter, SpecsMatchAndNoConfigurationIsAdded) {
  const auto exporter = make_dequantized_exporter({});
  const auto specs = exporter->specs(ramp(0x3E00), DType::bf16);
  ASSERT_EQ(specs.size(), 1U);
  EXPECT_EQ(specs[0].name, "m.weight");
  EXPECT_EQ(specs[0].dtype, DType::bf16);
  EXPECT_EQ(specs[0].shape, (Shape{1, 8}));
  const ModelGraph graph = small_graph();
  const QuantizeConfig config;
  EXPECT_TRUE(exporter->quantization_config({graph, config, {}}).is_null());
  EXPECT_TRUE(exporter->side_files({graph, config, {}}).empty());
  EXPECT_TRUE(exporter->scalars({graph, config, {}}).empty());
  EXPECT_EQ(exporter->container(), Container::safetensors);
  EXPECT_EQ(exporter->bias_dtype(DType::bf16), DType::bf16);
}

TEST(Exporters, ConvertedKeepsTensorsOfTheTypeAsTheyAre) {
  HostTensor tensor(DType::bf16, {2});
  tensor.as<std::uint16_t>()[1] = 0x7FC1;
  EXPECT_EQ(converted(tensor, DType::bf16).bytes, tensor.bytes);
  HostTensor single(DType::f32, {3});
  single.as<float>()[0] = 65504.0F;
  single.as<float>()[1] = 1e-8F;
  single.as<float>()[2] = -0.0F;
  EXPECT_THAT(converted(single, DType::f16).as<std::uint16_t>(), ElementsAre(0x7BFF, 0, 0x8000));
}

}  // namespace
}  // namespace quern::test
