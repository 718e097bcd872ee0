#include "pipeline/model/squeezellm_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>

#include "kernels/core/error.h"
#include "tests/pipeline/model/packed_bits.h"
#include "tests/pipeline/model/table_modules.h"
#include "tests/support/message_of.h"
#include "tests/support/paths.h"
#include "workers/files/atomic_file.h"
#include "workers/tensors/safetensors.h"
#include "workers/tensors/torch_writer.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAreArray;
using testing::HasSubstr;

/// One row of eight 4-bit codes 0 .. 7 and one of 15 .. 8; entry c is c / 2 and -c. The second row
/// has outliers in columns 0 and 7. Every column is one word.
SqueezellmTensors hand_made() {
  SqueezellmTensors tensors;
  tensors.qweight = host_tensor<std::int32_t>(DType::i32, {1, 2},
                                              {0x76543210, static_cast<std::int32_t>(0x89ABCDEFU)});
  tensors.lookup_table = HostTensor(DType::f32, {2, 16});
  for (std::size_t c = 0; c < 16; ++c) {
    tensors.lookup_table.as<float>()[c] = static_cast<float>(c) / 2;
    tensors.lookup_table.as<float>()[16 + c] = -static_cast<float>(c);
  }
  tensors.outliers = {host_tensor<std::int32_t>(DType::i32, {3}, {0, 0, 2}),
                      host_tensor<std::int32_t>(DType::i32, {2}, {0, 7}),
                      host_tensor<float>(DType::f32, {2}, {100, 0.25F})};
  return tensors;
}

TEST(DecodeSqueezellm, TablesAndOutliersByHand) {
  const std::vector<float> expected = {0,  0.5, 1,   1.5, 2,   2.5, 3,  3.5,
                                       85, -14, -13, -12, -11, -10, -9, -7.75};
  EXPECT_THAT(decode_squeezellm(hand_made(), 4, "m").as<float>(), ElementsAreArray(expected));
}

TEST(DecodeSqueezellm, TablesOfHalfTypeWithoutOutliers) {
  SqueezellmTensors tensors = hand_made();
  tensors.outliers.reset();
  tensors.lookup_table = HostTensor(DType::f16, {2, 16});
  std::ranges::fill(tensors.lookup_table.as<std::uint16_t>(), std::uint16_t{0xC000});
  EXPECT_THAT(decode_squeezellm(tensors, 4, "m").as<float>(), testing::Each(-2.0F));
}

class DecodeSqueezellmBits : public testing::TestWithParam<int> {};

TEST_P(DecodeSqueezellmBits, RandomModules) {
  for (const bool sparse : {false, true}) {
    const auto [module, weight] = make_table_module(
        {.rows = 11, .columns = 96, .bits = GetParam(), .sparse = sparse, .seed = 9});
    const auto& codebook = std::get<Codebook>(module.values);
    SqueezellmTensors tensors{module.words, codebook.table, std::nullopt};
    if (sparse) tensors.outliers = {codebook.rows, codebook.cols, codebook.vals};
    EXPECT_THAT(decode_squeezellm(tensors, GetParam(), "m").as<float>(), ElementsAreArray(weight));
  }
}

INSTANTIATE_TEST_SUITE_P(Bits, DecodeSqueezellmBits, testing::Values(2, 3, 4, 8));

std::string damaged(const std::function<void(SqueezellmTensors&)>& damage) {
  SqueezellmTensors tensors = hand_made();
  damage(tensors);
  return message_of<InputError>([&] { decode_squeezellm(tensors, 4, "model.q"); });
}

TEST(DecodeSqueezellm, WrongShapesAreNamed) {
  EXPECT_THAT(damaged([](auto& t) { t.qweight = HostTensor(DType::i32, {2}); }),
              AllOf(HasSubstr("'model.q.qweight'"), HasSubstr("[2]")));
  EXPECT_THAT(damaged([](auto& t) {
                t.qweight = HostTensor(DType::u8, {1, 2});
              }),
              HasSubstr("'model.q.qweight' is U8"));
  EXPECT_THAT(damaged([](auto& t) {
                t.lookup_table = HostTensor(DType::f32, {2, 8});
              }),
              AllOf(HasSubstr("'model.q.lookup_table'"), HasSubstr("[2, 8]"),
                    HasSubstr("expected F32 [2, 16]")));
  EXPECT_THAT(damaged([](auto& t) {
                t.lookup_table = HostTensor(DType::bf16, {2, 16});
              }),
              HasSubstr("'model.q.lookup_table' is BF16"));
  EXPECT_THAT(damaged([](auto& t) { t.outliers->rows = HostTensor(DType::i32, {2}); }),
              HasSubstr("'model.q.rows'"));
  EXPECT_THAT(damaged([](auto& t) { t.outliers->rows = HostTensor(DType::i32, {0}); }),
              HasSubstr("'model.q.rows'"));
  EXPECT_THAT(damaged([](auto& t) { t.outliers->cols = HostTensor(DType::i64, {2}); }),
              HasSubstr("'model.q.cols' is I64"));
  EXPECT_THAT(damaged([](auto& t) { t.outliers->vals = HostTensor(DType::f32, {3}); }),
              HasSubstr("'model.q.vals'"));
  SqueezellmTensors tensors = hand_made();
  EXPECT_THAT(message_of<InputError>([&] { decode_squeezellm(tensors, 3, "model.q"); }),
              AllOf(HasSubstr("'model.q.qweight'"), HasSubstr("[K * 3 / 32, N]")));
}

TEST(DecodeSqueezellm, OutliersOutOfPlaceAreNamed) {
  const auto rows = [](std::vector<std::int32_t> values) {
    return damaged([&](auto& t) { t.outliers->rows = host_tensor(DType::i32, {3}, values); });
  };
  EXPECT_THAT(rows({1, 1, 2}), AllOf(HasSubstr("'model.q.rows' has 1 at 0"), HasSubstr("0 to 0")));
  EXPECT_THAT(rows({0, 2, 1}), HasSubstr("has 1 at 2; expected 2 to 2"));
  EXPECT_THAT(rows({0, -1, 2}), HasSubstr("has -1 at 1"));
  EXPECT_THAT(rows({0, 3, 3}), HasSubstr("has 3 at 1; expected 0 to 2"));
  EXPECT_THAT(rows({0, 1, 1}), HasSubstr("ends with 1; expected 2"));
  const auto cols = [](std::vector<std::int32_t> values) {
    return damaged([&](auto& t) { t.outliers->cols = host_tensor(DType::i32, {2}, values); });
  };
  EXPECT_THAT(cols({-1, 7}), AllOf(HasSubstr("'model.q.cols' has -1 at 0"), HasSubstr("row 1")));
  EXPECT_THAT(cols({0, 8}), AllOf(HasSubstr("has 8 at 1"), HasSubstr("below 8")));
  EXPECT_THAT(cols({3, 3}), HasSubstr("has 3 at 1"));
  EXPECT_THAT(cols({4, 3}), HasSubstr("ascend"));
}

/// The small model with one layer's key projection packed.
class SqueezellmFolder : public testing::Test {
 protected:
  SqueezellmFolder() {
    const TensorSource source(source_dir() / "tests/data/llama3m");
    for (const std::string& name : source.names()) tensors_[name] = source.read(name);
    const Shape shape = tensors_.at(kModule + ".weight").shape;
    made_ = make_table_module({kModule, shape[0], shape[1], 3});
    const auto& codebook = std::get<Codebook>(made_.module.values);
    tensors_.erase(kModule + ".weight");
    tensors_[kModule + ".qweight"] = made_.module.words;
    tensors_[kModule + ".lookup_table"] = codebook.table;
    tensors_[kModule + ".rows"] = codebook.rows;
    tensors_[kModule + ".cols"] = codebook.cols;
    tensors_[kModule + ".vals"] = codebook.vals;
  }

  void write(TensorWriter& writer) const {
    for (const TensorSpec& spec : writer.specs()) {
      writer.write(spec.name, tensors_.at(spec.name).bytes);
    }
    writer.commit();
  }
  std::vector<TensorSpec> specs() const {
    std::vector<TensorSpec> result;
    for (const auto& [name, tensor] : tensors_) {
      result.push_back({name, tensor.dtype, tensor.shape});
    }
    return result;
  }
  void write_config(const nlohmann::json& quantization) const {
    auto config =
        nlohmann::json::parse(read_text_file(source_dir() / "tests/data/llama3m/config.json"));
    if (!quantization.is_null()) config["quantization_config"] = quantization;
    std::ofstream(folder() / "config.json") << config.dump();
  }
  void write_torch(std::int64_t threshold, const std::string& quant_config) const {
    write_config(nullptr);
    std::ofstream(folder() / "quant_config.json") << quant_config;
    TorchWriter writer(folder() / "any-name.pt");
    writer.add(specs());
    writer.set_scalars({{"sparse_threshold." + kModule, threshold}});
    write(writer);
  }
  void write_safetensors(const nlohmann::json& quantization) const {
    write_config(quantization);
    SafetensorsWriter writer(folder() / "model.safetensors", specs());
    write(writer);
  }
  void expect_weights() const {
    const OpenModel model = open_model(folder(), {});
    EXPECT_TRUE(model.is_quantized);
    EXPECT_THAT(model.weights->read(kModule + ".weight").as<float>(),
                ElementsAreArray(made_.weight));
    EXPECT_EQ(model.weights->bytes(kModule + ".weight"), made_.module.words.bytes.size());
    const HostTensor norm = model.weights->read("model.norm.weight");
    EXPECT_EQ(norm.bytes, tensors_.at("model.norm.weight").bytes);
    EXPECT_EQ(model.weights->bytes("model.norm.weight"), norm.bytes.size());
  }
  std::string refused() const {
    return message_of<InputError>([&] { open_model(folder(), {}); });
  }
  const fs::path& folder() const { return folder_.path(); }

  static inline const std::string kModule = "model.layers.1.self_attn.k_proj";
  std::map<std::string, HostTensor> tensors_;
  TableModule made_;
  TemporaryDirectory folder_;
};

TEST_F(SqueezellmFolder, ATorchFileIsOpenedByItsQuantConfig) {
  write_torch(made_.module.outliers, R"({"wbits": 3})");
  expect_weights();
}

TEST_F(SqueezellmFolder, SafetensorsAreOpenedByTheConfiguration) {
  write_safetensors({{"quant_method", "squeezellm"}, {"wbits", 3}, {"bits", 3}});
  expect_weights();
}

TEST_F(SqueezellmFolder, ModulesMayDifferInTheirWidth) {
  write_safetensors(
      {{"quant_method", "squeezellm"}, {"bits", 4}, {"modules", {{kModule, {{"bits", 3}}}}}});
  expect_weights();
}

TEST_F(SqueezellmFolder, WidthsThatDoNotFitTheTablesAreRefused) {
  write_torch(made_.module.outliers, R"({"wbits": 4})");
  EXPECT_THAT(refused(), AllOf(HasSubstr(kModule), HasSubstr("of 4 bits"), HasSubstr("[192, 8]")));
}

TEST_F(SqueezellmFolder, ConfigurationsThatAreNotUnderstoodAreRefused) {
  write_torch(made_.module.outliers, "{}");
  const auto refuses = [&](const std::string& text) {
    std::ofstream(folder() / "quant_config.json") << text;
    return refused();
  };
  for (const char* text : {"{}", R"({"wbits": 1})", R"({"wbits": 9})", R"({"wbits": "3"})",
                           R"({"wbits": 3.5})", "[]", "{\"wbits\"", ""}) {
    EXPECT_THAT(refuses(text), HasSubstr("quant_config.json")) << text;
  }
  for (const char* modules : {"[]", R"({"m": 3})", R"({"m": {"bits": 77}})", "3"}) {
    EXPECT_THAT(refuses(std::string(R"({"wbits": 3, "modules": )") + modules + "}"),
                AllOf(HasSubstr("quant_config.json"), HasSubstr("modules")))
        << modules;
  }
}

TEST_F(SqueezellmFolder, NumbersOfOutliersMustAgree) {
  write_torch(made_.module.outliers + 1, R"({"wbits": 3})");
  EXPECT_THAT(refused(), HasSubstr("sparse_threshold." + kModule));
}

TEST_F(SqueezellmFolder, MissingAndForeignPartsAreNamed) {
  const std::string quant_config = R"({"wbits": 3})";
  const HostTensor table = tensors_.at(kModule + ".lookup_table");
  tensors_.erase(kModule + ".lookup_table");
  write_torch(made_.module.outliers, quant_config);
  EXPECT_THAT(refused(), HasSubstr(kModule + ".lookup_table"));
  tensors_[kModule + ".lookup_table"] = table;
  tensors_[kModule + ".full_rows"] = HostTensor(DType::f32, {192, 10});
  write_torch(made_.module.outliers, quant_config);
  EXPECT_THAT(refused(), AllOf(HasSubstr(kModule + ".full_rows"), HasSubstr("not supported")));
  tensors_.erase(kModule + ".full_rows");
  tensors_[kModule + ".qweight"] = HostTensor(DType::i32, {18, 96});
  write_torch(made_.module.outliers, quant_config);
  EXPECT_THAT(refused(), AllOf(HasSubstr(kModule), HasSubstr("[18, 96]")));
  tensors_[kModule + ".qweight"] = made_.module.words;
  tensors_["model.norm.weight"] = HostTensor(DType::i32, {192});
  write_torch(made_.module.outliers, quant_config);
  EXPECT_THAT(refused(), AllOf(HasSubstr("'model.norm.weight' is I32"), HasSubstr("float")));
}

TEST_F(SqueezellmFolder, APtFileWithoutPackedModulesIsAPlainModel) {
  for (const char* part : {".qweight", ".lookup_table", ".rows", ".cols", ".vals"}) {
    tensors_.erase(kModule + part);
  }
  tensors_[kModule + ".weight"] = HostTensor(DType::f16, {192, 192});
  write_torch(0, R"({"wbits": 3})");
  EXPECT_EQ(refused(), kNothingThrown);
}

}  // namespace
}  // namespace quern::test
