#include "pipeline/model/gptq_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "kernels/core/error.h"
#include "tests/pipeline/model/packed_bits.h"
#include "tests/support/message_of.h"
#include "tests/support/paths.h"
#include "workers/tensors/safetensors.h"

namespace quern::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

/// One row [1, 32], code k mod 2^bits, scale 2, one group, zero 1.
GptqTensors ramp(int bits, int stored_zero) {
  std::vector<unsigned> codes;
  for (unsigned k = 0; k < 32; ++k) codes.push_back(k & ((1U << bits) - 1U));
  return {packed_columns({codes}, bits), packed_rows({{static_cast<unsigned>(stored_zero)}}, bits),
          host_tensor<std::uint16_t>(DType::f16, {1, 1}, {0x4000}), HostTensor(DType::i32, {32})};
}

float ramp_value(int bits, std::size_t k) {
  return 2.0F * (static_cast<float>(k % (std::size_t{1} << bits)) - 1.0F);
}

class DecodeGptq : public testing::TestWithParam<int> {};

TEST_P(DecodeGptq, SecondFormatStoresTheZeroAndTheFirstOneLess) {
  const int bits = GetParam();
  for (const int offset : {0, 1}) {
    const HostTensor weight = decode_gptq(ramp(bits, 1 - offset), bits, offset, "m");
    ASSERT_EQ(weight.shape, (Shape{1, 32}));
    for (std::size_t k = 0; k < 32; ++k) EXPECT_EQ(weight.as<float>()[k], ramp_value(bits, k));
  }
}

INSTANTIATE_TEST_SUITE_P(Bits, DecodeGptq, testing::Values(2, 3, 4, 8));

/// The bytes of a module as AutoGPTQ would write them: two rows, eight columns, act order.
GptqTensors hand_made() {
  // Row 0 has codes 0 .. 7, row 1 codes 15 .. 8. Zeros 8 and 9 in group 0, 1 and 0 in group 1,
  // stored one less: 0x87, and 0 with the borrow of the second as 15.
  return {host_tensor<std::int32_t>(DType::i32, {1, 2},
                                    {0x76543210, static_cast<std::int32_t>(0x89ABCDEFU)}),
          host_tensor<std::int32_t>(DType::i32, {2, 1}, {0x87, 0xF0}),
          host_tensor<std::uint16_t>(DType::f16, {2, 2}, {0x3C00, 0x3800, 0x4000, 0xBC00}),
          host_tensor<std::int32_t>(DType::i32, {8}, {1, 0, 0, 1, 1, 0, 1, 0})};
}

TEST(DecodeGptqBytes, UnsortedGroupsAndABorrowedZero) {
  const HostTensor weight = decode_gptq(hand_made(), 4, 1, "m");
  // Row 0: scale 1, zero 8 in group 0; scale 2, zero 1 in group 1. Row 1: 0.5, 9; -1, 0.
  const std::vector<float> expected = {-2,  -7,  -6, 4,   6,   -3,  10, -1,
                                       -15, 2.5, 2,  -12, -11, 0.5, -9, -0.5};
  EXPECT_THAT(weight.as<float>(), testing::ElementsAreArray(expected));
}

TEST(DecodeGptqBytes, WrongShapesAndGroupsAreNamed) {
  const auto message = [](const std::function<void(GptqTensors&)>& damage) {
    GptqTensors tensors = hand_made();
    damage(tensors);
    return message_of<InputError>([&] { decode_gptq(tensors, 4, 1, "model.q"); });
  };
  EXPECT_THAT(message([](auto& t) {
                t.qweight = HostTensor(DType::i32, {2, 2});
              }),
              AllOf(HasSubstr("'model.q.qweight'"), HasSubstr("[2, 2]"), HasSubstr("[1, 2]")));
  EXPECT_THAT(message([](auto& t) {
                t.qweight = HostTensor(DType::u8, {1, 2});
              }),
              HasSubstr("'model.q.qweight' is U8"));
  EXPECT_THAT(message([](auto& t) {
                t.qzeros = HostTensor(DType::i32, {1, 1});
              }),
              HasSubstr("'model.q.qzeros'"));
  EXPECT_THAT(message([](auto& t) {
                t.scales = HostTensor(DType::f32, {2, 2});
              }),
              HasSubstr("'model.q.scales' is F32"));
  EXPECT_THAT(message([](auto& t) { t.scales = HostTensor(DType::f16, {4}); }),
              HasSubstr("'model.q'"));
  EXPECT_THAT(message([](auto& t) { t.g_idx = HostTensor(DType::i64, {8}); }),
              HasSubstr("'model.q.g_idx' is I64"));
  EXPECT_THAT(message([](auto& t) {
                t.g_idx = HostTensor(DType::i32, {2, 4});
              }),
              HasSubstr("'model.q'"));
  EXPECT_THAT(message([](auto& t) { t.g_idx.template as<std::int32_t>()[3] = 2; }),
              HasSubstr("names group 2"));
  EXPECT_THAT(message([](auto& t) { t.g_idx.template as<std::int32_t>()[3] = -1; }),
              HasSubstr("names group -1"));
}

/// A folder with modules "a" (2 bits), "b" (3), "c" (4), "d" (8), all of the ramp.
class PackedFolder : public testing::Test {
 protected:
  PackedFolder() {
    std::map<std::string, HostTensor> tensors;
    for (const auto& [name, bits] : kBits) {
      GptqTensors module = ramp(bits, 0);
      tensors[name + ".qweight"] = std::move(module.qweight);
      tensors[name + ".qzeros"] = std::move(module.qzeros);
      tensors[name + ".scales"] = std::move(module.scales);
      tensors[name + ".g_idx"] = std::move(module.g_idx);
    }
    tensors["norm.weight"] = host_tensor<float>(DType::f32, {2}, {1.5F, -2.0F});
    std::vector<TensorSpec> specs;
    for (const auto& [name, tensor] : tensors) specs.push_back({name, tensor.dtype, tensor.shape});
    SafetensorsWriter writer(directory_.path() / "model.safetensors", specs);
    for (const auto& [name, tensor] : tensors) writer.write(name, tensor.bytes);
    writer.commit();
    source_.emplace(directory_.path());
  }

  GptqWeights open(const std::string& text) const {
    return {*source_, nlohmann::ordered_json::parse(text), "config.json"};
  }
  void expect_ramps(const GptqWeights& weights) const {
    for (const auto& [name, bits] : kBits) {
      const HostTensor weight = weights.read(name + ".weight");
      EXPECT_EQ(weight.as<float>()[31], ramp_value(bits, 31)) << name;
    }
  }

  static inline const std::map<std::string, int> kBits = {{"a", 2}, {"b", 3}, {"c", 4}, {"d", 8}};
  TemporaryDirectory directory_;
  std::optional<TensorSource> source_;
};

TEST_F(PackedFolder, FirstMatchingOverrideWins) {
  expect_ramps(open(R"({"quant_method": "gptq", "checkpoint_format": "gptq", "bits": 4,
      "dynamic": {"a|x": {"bits": 2}, "+:b$": {"bits": 3}, "+:[ab]": {"bits": 8},
                  "+:d": {"group_size": 32, "bits": 8}, ".": {}}})"));
}

TEST_F(PackedFolder, MatchesStartAtTheModuleName) {
  expect_ramps(open(R"({"quant_method": "gptq", "format": "gptq", "bits": 4,
      "dynamic": {"a": {"bits": 2}, "b": {"bits": 3}, "d": {"bits": 8}, "+:.c": {"bits": 2}}})"));
}

TEST_F(PackedFolder, NegativesCountBeforePositivesWhereverTheyStand) {
  const GptqWeights weights = open(R"({"quant_method": "gptq", "format": "gptq", "bits": 4,
      "dynamic": {"+:c": {"bits": 2}, "+:d": {"bits": 8}, "-:c": {}}})");
  EXPECT_EQ(weights.read("c.weight").as<float>()[31], ramp_value(4, 31));
  EXPECT_EQ(weights.read("d.weight").as<float>()[31], ramp_value(8, 31));
}

TEST_F(PackedFolder, OtherTensorsPassAsTheyAre) {
  const GptqWeights weights =
      open(R"({"quant_method": "gptq", "format": "gptq_v2", "bits": 4, "dynamic": null})");
  EXPECT_EQ(weights.read("norm.weight").as<float>()[1], -2.0F);
  EXPECT_EQ(weights.bytes("norm.weight"), 8U);
  EXPECT_EQ(weights.bytes("c.weight"), 16U);
  EXPECT_TRUE(weights.is_packed("c"));
  EXPECT_FALSE(weights.is_packed("norm"));
  EXPECT_EQ(weights.read("c.weight").as<float>()[0], 0.0F) << "v2 stores the zero itself";
}

TEST_F(PackedFolder, PackedShapesMustBeThoseOfTheModel) {
  const GptqWeights weights = open(R"({"quant_method": "gptq", "format": "gptq", "bits": 4})");
  const auto check = [&](const char* name, const Shape& shape) {
    ModelGraph graph;
    graph.tensors = {{Role::head, Part::weight, name, shape}};
    return message_of<InputError>([&] { check_gptq_checkpoint(graph, *source_, weights); });
  };
  EXPECT_EQ(check("c.weight", {1, 32}), kNothingThrown);
  EXPECT_EQ(check("norm.weight", {2}), kNothingThrown);
  EXPECT_THAT(check("c.weight", {2, 32}), AllOf(HasSubstr("'c'"), HasSubstr("[2, 32]")));
  EXPECT_THAT(check("c.weight", {1, 64}), AllOf(HasSubstr("'c'"), HasSubstr("[1, 64]")));
  EXPECT_THAT(check("norm.weight", {3}), HasSubstr("'norm.weight'"));
  EXPECT_THAT(check("absent.weight", {3}), HasSubstr("absent.weight"));
}

TEST_F(PackedFolder, AConfigurationThatIsNotUnderstoodIsRefused) {
  const auto message = [&](const std::string& text) {
    return message_of<InputError>([&] { open(text); });
  };
  EXPECT_THAT(message(R"({"quant_method": "awq", "bits": 4})"), HasSubstr("'awq'"));
  EXPECT_THAT(message(R"({"quant_method": "gptq", "format": "marlin", "bits": 4})"),
              HasSubstr("'marlin'"));
  for (const char* bits : {"1", "9", "0", "\"4\"", "null", "4.5"}) {
    const std::string text =
        std::string(R"({"quant_method": "gptq", "format": "gptq", "bits": )") + bits + "}";
    EXPECT_THAT(message(text), AllOf(HasSubstr("config.json"), HasSubstr("bits"))) << bits;
  }
  for (const char* dynamic : {"[1]", "{\"a\": 3}", "{\"(\": {}}", "{\"a\": {\"bits\": 77}}", "5"}) {
    const std::string text =
        std::string(R"({"quant_method": "gptq", "format": "gptq", "bits": 4, "dynamic": )") +
        dynamic + "}";
    EXPECT_THAT(message(text), AllOf(HasSubstr("config.json"), HasSubstr("dynamic"))) << dynamic;
  }
  EXPECT_THAT(message("[]"), HasSubstr("config.json"));
}

}  // namespace
}  // namespace quern::test
