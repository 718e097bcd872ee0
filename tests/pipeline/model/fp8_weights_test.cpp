#include "pipeline/model/fp8_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "kernels/core/error.h"
#include "tests/support/paths.h"
#include "workers/files/atomic_file.h"
#include "workers/files/json_file.h"
#include "workers/tensors/safetensors.h"

namespace quern::test {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr const char* kName = "model.layers.0.mlp.down_proj.weight";

std::string refusal(const std::function<void()>& action) {
  try {
    action();
  } catch (const InputError& error) {
    return error.what();
  } catch (const std::exception& error) {
    return std::string("not an InputError: ") + error.what();
  }
  return "nothing was thrown";
}

template <typename T>
HostTensor tensor(DType dtype, const Shape& shape, const std::vector<T>& values) {
  HostTensor result(dtype, shape);
  std::ranges::copy(values, result.as<T>().begin());
  return result;
}

/// Codes of 1, -2, 448, 2^-9, 0, -0.0625, 15, NaN's neighbour -448, 3 ... in two rows and a half.
HostTensor hand_made_codes() {
  return tensor<std::uint8_t>(DType::f8_e4m3, {3, 5},
                              {0x38, 0xC0, 0x7E, 0x01, 0x00,    // 1, -2, 448, 2^-9, 0
                               0x98, 0x57, 0xFE, 0x44, 0x39,    // -2^-4, 15, -448, 3, 1.125
                               0x38, 0x38, 0x38, 0x38, 0x38});  // 1
}

/// Blocks of 2 x 3 on a matrix of 3 x 5: the last ones are cut.
HostTensor hand_made_scales() {
  return tensor<float>(DType::f32, {2, 2}, {2.0F, 0.5F, 10.0F, 0.1F});
}

TEST(DecodeFp8, MultipliesEveryBlockByItsScale) {
  const HostTensor weight =
      decode_fp8(hand_made_codes(), hand_made_scales(), {2, 3}, DType::f32, kName);
  EXPECT_THAT(weight.as<float>(),
              ElementsAre(2.0F, -4.0F, 896.0F, 0x1p-10F, 0.0F, -0.125F, 30.0F, -896.0F, 1.5F,
                          0.5625F, 10.0F, 10.0F, 10.0F, 0.1F, 0.1F));
}

TEST(DecodeFp8, RoundsOnceToTheTypeAskedFor) {
  const HostTensor bf16 =
      decode_fp8(hand_made_codes(), hand_made_scales(), {2, 3}, DType::bf16, kName);
  const HostTensor f16 =
      decode_fp8(hand_made_codes(), hand_made_scales(), {2, 3}, DType::f16, kName);
  EXPECT_EQ(bf16.as<std::uint16_t>()[2], 0x4460);   // 896
  EXPECT_EQ(bf16.as<std::uint16_t>()[14], 0x3DCD);  // 0.1
  EXPECT_EQ(f16.as<std::uint16_t>()[14], 0x2E66);
  EXPECT_EQ(f16.as<std::uint16_t>()[7], 0xE300);  // -896
}

TEST(DecodeFp8, WrongTypesAndShapesAreNamed) {
  const HostTensor codes = hand_made_codes();
  EXPECT_THAT(refusal([&] {
                decode_fp8(codes, HostTensor(DType::f32, {2, 1}), {2, 3}, DType::f32, kName);
              }),
              AllOf(HasSubstr(kName), HasSubstr("F8_E4M3 [3, 5] with scales F32 [2, 1]"),
                    HasSubstr("2 x 3")));
  EXPECT_THAT(refusal([&] {
                decode_fp8(codes, HostTensor(DType::bf16, {2, 2}), {2, 3}, DType::f32, kName);
              }),
              HasSubstr("BF16"));
}

/// A folder with the tensors of one weight in two shards, or in none.
class Fp8Folder : public testing::Test {
 protected:
  void write(const Shape& weight, const std::optional<HostTensor>& scales) {
    SafetensorsWriter first(folder_.path() / "a.safetensors", {{kName, DType::f8_e4m3, weight}});
    first.write(kName, HostTensor(DType::f8_e4m3, weight).bytes);
    first.commit();
    nlohmann::json map = {{kName, "a.safetensors"}};
    if (scales) {
      const std::string name = std::string(kName) + "_scale_inv";
      SafetensorsWriter second(folder_.path() / "b.safetensors",
                               {{name, scales->dtype, scales->shape}});
      second.write(name, scales->bytes);
      second.commit();
      map[name] = "b.safetensors";
    }
    write_text_file(folder_.path() / "model.safetensors.index.json",
                    nlohmann::json({{"weight_map", map}}).dump());
  }

  std::vector<std::string> stored_names(const Shape& called_for) const {
    const TensorSource source(folder_.path());
    const Fp8Weights weights(source, kConfig, DType::f32, "config.json");
    return weights.stored_names({Role::down, Part::weight, kName, called_for});
  }

  const nlohmann::json kConfig = {{"quant_method", "fp8"}, {"weight_block_size", {128, 128}}};
  TemporaryDirectory folder_;
};

TEST_F(Fp8Folder, AWeightAndItsScalesMayBeApart) {
  write({130, 128}, HostTensor(DType::f32, {2, 1}));
  EXPECT_THAT(stored_names({130, 128}), ElementsAre(kName, std::string(kName) + "_scale_inv"));
  const TensorSource source(folder_.path());
  const Fp8Weights weights(source, kConfig, DType::bf16, "config.json");
  EXPECT_EQ(weights.bytes(kName), 130U * 128U + 8U);
  EXPECT_EQ(weights.read(kName).dtype, DType::bf16);
  EXPECT_EQ(weights.read(kName).shape, (Shape{130, 128}));
}

TEST_F(Fp8Folder, MissingAndIllShapedScalesAreNamed) {
  write({130, 128}, std::nullopt);
  EXPECT_THAT(refusal([&] {
                stored_names({130, 128});
              }),
              AllOf(HasSubstr("a.safetensors"), HasSubstr("down_proj.weight_scale_inv"),
                    HasSubstr("expected F32 [2, 1]")));
  write({130, 128}, HostTensor(DType::f32, {1, 2}));
  EXPECT_THAT(refusal([&] {
                stored_names({130, 128});
              }),
              AllOf(HasSubstr("b.safetensors"), HasSubstr("is F32 [1, 2]; expected F32 [2, 1]")));
  write({130, 128}, HostTensor(DType::bf16, {2, 1}));
  EXPECT_THAT(refusal([&] { stored_names({130, 128}); }), HasSubstr("is BF16 [2, 1]"));
  EXPECT_THAT(refusal([&] {
                stored_names({130, 64});
              }),
              HasSubstr("is F8_E4M3 [130, 128]; config.json calls for [130, 64]"));
}

TEST_F(Fp8Folder, OtherConfigurationsAreRefused) {
  write({1, 1}, HostTensor(DType::f32, {1, 1}));
  const TensorSource source(folder_.path());
  const auto message = [&](const nlohmann::json& config) {
    return refusal([&] { const Fp8Weights weights(source, config, DType::f32, "config.json"); });
  };
  EXPECT_THAT(message({{"quant_method", "fp8"}}), HasSubstr("weight_block_size is missing"));
  EXPECT_THAT(message({{"quant_method", "fp8"}, {"weight_block_size", {128, 0}}}),
              HasSubstr("weight_block_size is [128,0]"));
  EXPECT_THAT(message({{"quant_method", "fp8"}, {"fmt", "e5m2"}, {"weight_block_size", {1, 1}}}),
              HasSubstr("fmt 'e5m2'"));
}

/// A code's value from the format's definition.
double e4m3(unsigned code) {
  const double sign = code >= 128 ? -1.0 : 1.0;
  const int exponent = static_cast<int>(code >> 3) % 16;
  if (exponent == 0) return sign * std::ldexp(code % 8, -9);
  return sign * std::ldexp(8 + code % 8, exponent - 10);
}

/// Blocks of 128 x 128, one element at a time.
std::vector<float> expected_values(const HostTensor& codes, const HostTensor& scales) {
  const std::int64_t columns = codes.shape[1];
  std::vector<float> values;
  for (std::int64_t i = 0; i < codes.shape.elems(); ++i) {
    const std::int64_t block = i / columns / 128 * scales.shape[1] + i % columns / 128;
    const auto scale = static_cast<double>(scales.as<float>()[static_cast<std::size_t>(block)]);
    const unsigned code = codes.as<std::uint8_t>()[static_cast<std::size_t>(i)];
    values.push_back(static_cast<float>(e4m3(code) * scale));  // 28 bits: rounded once
  }
  return values;
}

TEST(Fp8Checkpoint, RealMatricesDecodeByTheDefinition) {
  if (shared_dir().empty()) GTEST_SKIP() << kNoShared;
  const std::filesystem::path folder = shared_dir() / "models/deepseek11m-fp8";
  const TensorSource source(folder);
  const nlohmann::json config = read_json_file(folder / "config.json").at("quantization_config");
  const Fp8Weights weights(source, config, DType::f32, "config.json");
  int matrices = 0;
  int with_partial_blocks = 0;
  for (const std::string& name : source.names()) {
    const TensorEntry& entry = source.entry(name);
    if (entry.dtype != DType::f8_e4m3) continue;
    EXPECT_EQ(weights.stored_names({Role::down, Part::weight, name, entry.shape}).size(), 2U);
    const HostTensor decoded = weights.read(name);
    EXPECT_TRUE(std::ranges::equal(
        decoded.as<float>(), expected_values(source.read(name), source.read(name + "_scale_inv"))))
        << name;
    ++matrices;
    if (entry.shape[0] % 128 != 0) ++with_partial_blocks;
  }
  EXPECT_GT(matrices, 100);
  EXPECT_GT(with_partial_blocks, 0);
}

}  // namespace
}  // namespace quern::test
