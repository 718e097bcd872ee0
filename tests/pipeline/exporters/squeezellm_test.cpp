#include "pipeline/exporters/squeezellm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/core/error.h"
#include "tests/pipeline/model/table_modules.h"

namespace quern::test {
namespace {

using testing::ElementsAre;

/// Configuration files of modules with these widths and numbers of outliers.
class Described {
 public:
  explicit Described(const std::vector<std::pair<int, std::int64_t>>& modules) {
    for (const auto& [bits, outliers] : modules) {
      ModuleSummary summary;
      summary.name = std::string(1, static_cast<char>('a' + summaries_.size()));
      summary.bits = bits;
      summary.outliers = outliers;
      summaries_.push_back(summary);
    }
  }
  ExportedModel model() const { return {graph_, config_, summaries_}; }

 private:
  ModelGraph graph_;
  QuantizeConfig config_;
  std::vector<ModuleSummary> summaries_;
};

TEST(SqueezellmExporter, TensorsAreWhatTheSpecsSay) {
  for (const auto& exporter :
       {make_squeezellm_exporter({}), make_squeezellm_safetensors_exporter({})}) {
    for (const int bits : {2, 3, 4, 8}) {
      for (const DType dtype : {DType::f32, DType::f16}) {
        for (const bool sparse : {false, true}) {
          const auto made =
              make_table_module({.bits = bits, .table_dtype = dtype, .sparse = sparse});
          const auto specs = exporter->specs(made.module, DType::bf16);
          const auto tensors = exporter->tensors(made.module, DType::bf16);
          ASSERT_EQ(specs.size(), sparse ? 5U : 2U);
          ASSERT_EQ(tensors.size(), specs.size());
          for (std::size_t i = 0; i < specs.size(); ++i) {
            EXPECT_EQ(tensors[i].name, specs[i].name);
            EXPECT_EQ(tensors[i].tensor.dtype, specs[i].dtype) << specs[i].name;
            EXPECT_EQ(tensors[i].tensor.shape, specs[i].shape) << specs[i].name;
          }
          EXPECT_EQ(specs[0].name, "m.qweight");
          EXPECT_EQ(specs[0].shape, (Shape{2 * bits, 5}));
          EXPECT_EQ(specs[1].name, "m.lookup_table");
          EXPECT_EQ(specs[1].dtype, dtype);
          EXPECT_EQ(specs[1].shape, (Shape{5, 1 << bits}));
        }
      }
    }
  }
}

TEST(SqueezellmExporter, OutliersAreCompressedRows) {
  const auto made = make_table_module({});
  const auto tensors = make_squeezellm_exporter({})->tensors(made.module, DType::f32);
  EXPECT_EQ(tensors[2].name, "m.rows");
  EXPECT_EQ(tensors[2].tensor.shape, Shape{6});
  EXPECT_EQ(tensors[2].tensor.as<std::int32_t>()[5], made.module.outliers);
  EXPECT_EQ(tensors[3].name, "m.cols");
  EXPECT_EQ(tensors[3].tensor.as<std::int32_t>()[0], 0) << "the second row begins with one";
  EXPECT_EQ(tensors[4].name, "m.vals");
  EXPECT_EQ(tensors[4].tensor.dtype, DType::f32);
}

TEST(SqueezellmExporter, TheTorchFileIsDescribedBesideIt) {
  const auto exporter = make_squeezellm_exporter({});
  EXPECT_EQ(exporter->container(), Container::torch);
  EXPECT_EQ(exporter->bias_dtype(DType::bf16), DType::bf16);
  const Described sparse({{3, 7}, {3, 0}});
  EXPECT_TRUE(exporter->quantization_config(sparse.model()).is_null());
  const auto files = exporter->side_files(sparse.model());
  ASSERT_EQ(files.size(), 1U);
  EXPECT_EQ(files[0].name, "quant_config.json");
  EXPECT_EQ(files[0].contents.dump(), R"({"wbits":3})");
  const auto scalars = exporter->scalars(sparse.model());
  ASSERT_EQ(scalars.size(), 2U);
  EXPECT_EQ(scalars[0].name, "sparse_threshold.a");
  EXPECT_EQ(scalars[0].value, 7);
  EXPECT_EQ(scalars[1].name, "sparse_threshold.b");
  EXPECT_EQ(scalars[1].value, 0);
  EXPECT_TRUE(exporter->scalars(Described({{3, 0}, {3, 0}}).model()).empty());
}

TEST(SqueezellmExporter, SafetensorsAreDescribedInTheConfiguration) {
  const auto exporter = make_squeezellm_safetensors_exporter({});
  EXPECT_EQ(exporter->container(), Container::safetensors);
  const Described dense({{4, 0}, {4, 0}});
  auto json = exporter->quantization_config(dense.model());
  const std::string quantizer = json.at("meta").at("quantizer").at(0);
  EXPECT_TRUE(quantizer.starts_with("quern:")) << quantizer;
  json.erase("meta");
  EXPECT_EQ(json.dump(),
            R"({"quant_method":"squeezellm","wbits":4,"bits":4,"include_sparse":false})");
  EXPECT_TRUE(exporter->side_files(dense.model()).empty());
  const Described mixed({{2, 0}, {3, 5}, {4, 0}, {4, 0}, {3, 0}});
  json = exporter->quantization_config(mixed.model());
  EXPECT_TRUE(exporter->scalars(mixed.model()).empty());
  EXPECT_EQ(json.at("bits"), 3) << "of equally frequent ones the smaller";
  EXPECT_EQ(json.at("include_sparse"), true);
  EXPECT_EQ(json.at("modules").dump(), R"({"a":{"bits":2},"c":{"bits":4},"d":{"bits":4}})");
}

TEST(SqueezellmExporter, ModulesOnAGridAreOursToBlame) {
  QuantizedModule grid;
  EXPECT_THROW(make_squeezellm_exporter({})->tensors(grid, DType::f32), InternalError);
}

}  // namespace
}  // namespace quern::test
