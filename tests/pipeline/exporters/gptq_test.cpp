#include "pipeline/exporters/gptq.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/pipeline/small_graph.h"

namespace quern::test {
namespace {

using testing::Each;
using testing::ElementsAre;

ModuleSummary summary(std::int64_t rows, std::int64_t columns, const GridSpec& grid) {
  ModuleSummary result;
  result.name = std::string("m");
  result.out_features = rows;
  result.in_features = columns;
  result.bits = grid.bits;
  result.group_size = grid.group_size;
  result.symmetric = grid.symmetric;
  return result;
}

/// A module with all codes 0, scales of 1 and the given zero points.
QuantizedModule module_of(const ModuleSummary& layout, const std::vector<std::uint8_t>& zeros) {
  const std::int64_t n = layout.out_features;
  const std::int64_t groups = group_count(layout.in_features, layout.group_size);
  QuantizedModule module{
      layout, HostTensor(DType::i32, {(layout.in_features * layout.bits + 31) / 32, n}), {}};
  UniformGrid grid{HostTensor(DType::f16, {groups, n}), HostTensor(DType::u8, {groups, n}),
                   HostTensor(DType::i32, {layout.in_features})};
  std::ranges::fill(grid.scales.as<std::uint16_t>(), std::uint16_t{0x3C00});
  std::ranges::copy(zeros, grid.zeros.as<std::uint8_t>().begin());
  module.values = std::move(grid);
  return module;
}

/// The packed zero points of one group of 32 rows.
std::vector<std::uint32_t> packed_zeros(const Exporter& exporter, int bits, bool symmetric,
                                        const std::vector<std::uint8_t>& zeros) {
  const ModuleSummary plan = summary(static_cast<std::int64_t>(zeros.size()), 64,
                                     {.bits = bits, .group_size = -1, .symmetric = symmetric});
  const auto tensors = exporter.tensors(module_of(plan, zeros), DType::bf16);
  EXPECT_EQ(tensors[1].name, "m.qzeros");
  const auto words = tensors[1].tensor.as<std::uint32_t>();
  return {words.begin(), words.end()};
}

std::unique_ptr<Exporter> exporter_for(const std::vector<std::string>& overrides) {
  return make_gptq_exporter(make_plan(small_graph(), small_run(overrides)));
}

TEST(GptqExporter, SymmetricZerosAreKnownWords) {
  const auto exporter = exporter_for({});
  const auto zeros = [](int bits) {
    return std::vector<std::uint8_t>(32, static_cast<std::uint8_t>(1U << (bits - 1)));
  };
  EXPECT_THAT(packed_zeros(*exporter, 2, true, zeros(2)), Each(0x55555555U));
  EXPECT_THAT(packed_zeros(*exporter, 4, true, zeros(4)), Each(0x77777777U));
  EXPECT_THAT(packed_zeros(*exporter, 8, true, zeros(8)), Each(0x7F7F7F7FU));
  // 011 thirty-two times: the bytes DB B6 6D, four times.
  EXPECT_THAT(packed_zeros(*exporter, 3, true, zeros(3)),
              ElementsAre(0xDB6DB6DBU, 0xB6DB6DB6U, 0x6DB6DB6DU));
}

TEST(GptqExporter, SecondFormatStoresTheZeroItself) {
  const auto exporter = exporter_for({"quantize.symmetric=false"});
  EXPECT_THAT(packed_zeros(*exporter, 4, false, {0, 1, 2, 3, 4, 5, 6, 7, 15, 0}),
              ElementsAre(0x76543210U, 0x0FU));
  // 0 1 2 ... 7 is 0xFAC688 in three bits; 7 more bits are 15 = 7 + 1 * 8, padded with zeros.
  EXPECT_THAT(packed_zeros(*exporter, 3, false, {0, 1, 2, 3, 4, 5, 6, 7, 7, 1}),
              ElementsAre(0x0FFAC688U));
  EXPECT_THAT(packed_zeros(*exporter, 2, false, std::vector<std::uint8_t>(17, 3)),
              ElementsAre(0xFFFFFFFFU, 0x3U));
}

TEST(GptqExporter, TensorsAreWhatTheSpecsSay) {
  const auto exporter = exporter_for({});
  for (const int bits : {2, 3, 4, 8}) {
    for (const std::int64_t group_size : {-1, 64, 48}) {
      const ModuleSummary plan = summary(40, 100, {.bits = bits, .group_size = group_size});
      const std::int64_t groups = group_count(100, group_size);
      const QuantizedModule module =
          module_of(plan, std::vector<std::uint8_t>(static_cast<std::size_t>(groups * 40), 2));
      const auto specs = exporter->specs(plan, DType::bf16);
      const auto tensors = exporter->tensors(module, DType::bf16);
      ASSERT_EQ(specs.size(), 4U);
      ASSERT_EQ(tensors.size(), specs.size());
      for (std::size_t i = 0; i < specs.size(); ++i) {
        EXPECT_EQ(tensors[i].name, specs[i].name);
        EXPECT_EQ(tensors[i].tensor.dtype, specs[i].dtype) << specs[i].name;
        EXPECT_EQ(tensors[i].tensor.shape, specs[i].shape) << specs[i].name;
      }
      EXPECT_EQ(specs[0].shape, (Shape{(100 * bits + 31) / 32, 40}));
      EXPECT_EQ(specs[1].shape, (Shape{groups, (40 * bits + 31) / 32}));
    }
  }
}

TEST(GptqExporter, ConfigurationHasTheFieldsReadersLookFor) {
  const RunFile run = small_run({"quantize.damping=0.02", "quantize.act_order=full"});
  const ModelGraph graph = small_graph();
  const auto exporter = make_gptq_exporter(make_plan(graph, run));
  const auto json = exporter->quantization_config({graph, run.quantize, {}});
  const auto expected = nlohmann::json::parse(R"({"bits": 4, "group_size": 64, "desc_act": true,
      "sym": true, "lm_head": false, "quant_method": "gptq", "method": "gptq",
      "checkpoint_format": "gptq", "format": "gptq", "pack_dtype": "int32"})");
  for (const auto& [key, value] : expected.items()) EXPECT_EQ(json.at(key), value) << key;
  EXPECT_FALSE(json.contains("dynamic"));
  const auto& meta = json.at("meta");
  EXPECT_TRUE(meta.at("quantizer").at(0).get<std::string>().starts_with("quern:"));
  EXPECT_EQ(meta.at("damp_percent"), 0.02);
  EXPECT_EQ(meta.at("true_sequential"), true);
  EXPECT_EQ(meta.at("static_groups"), false);
  const auto files = exporter->side_files({graph, run.quantize, {}});
  ASSERT_EQ(files.size(), 1U);
  EXPECT_EQ(files[0].name, "quantize_config.json");
  EXPECT_EQ(files[0].contents, json) << "the same object in a file of its own";
  EXPECT_EQ(exporter->container(), Container::safetensors);
  EXPECT_TRUE(exporter->scalars({graph, run.quantize, {}}).empty());
}

TEST(GptqExporter, OneAsymmetricModuleMakesTheWholeFolderTheSecondFormat) {
  const std::vector<std::string> rules = {"quantize.rules=[{match: '.*q_proj', symmetric: false}]"};
  const RunFile run = small_run(rules);
  const ModelGraph graph = small_graph();
  const auto json = exporter_for(rules)->quantization_config({graph, run.quantize, {}});
  EXPECT_EQ(json.at("checkpoint_format"), "gptq_v2");
  EXPECT_EQ(json.at("format"), "gptq_v2");
  EXPECT_EQ(json.at("sym"), true);
  EXPECT_EQ(json.at("dynamic").begin().value(), nlohmann::json({{"sym", false}}));
  EXPECT_EQ(exporter_for(rules)->bias_dtype(DType::bf16), DType::f16);
}

}  // namespace
}  // namespace quern::test
