#include "pipeline/synthesis/synthesis.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/core/error.h"
#include "pipeline/model/weight_source.h"
#include "pipeline/synthesis/synthetic_values.h"
#include "tests/support/paths.h"
#include "workers/files/atomic_file.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;

using Json = nlohmann::ordered_json;
using testing::AllOf;
using testing::HasSubstr;

/// A model of two layers whose matrices are no multiples of 128.
Json small_config(const std::string& type = "llama") {
  return {{"model_type", type},        {"hidden_size", 160},
          {"intermediate_size", 200},  {"num_hidden_layers", 3},
          {"num_attention_heads", 4},  {"num_key_value_heads", 2},
          {"vocab_size", 101},         {"max_position_embeddings", 64},
          {"initializer_range", 0.05}, {"tie_word_embeddings", type == "mistral"},
          {"torch_dtype", "bfloat16"}};
}

template <typename Failure>
std::string refusal(const std::function<void()>& action) {
  try {
    action();
  } catch (const Failure& error) {
    return error.what();
  } catch (const std::exception& error) {
    return std::string("another error: ") + error.what();
  }
  return "nothing was thrown";
}

class Synthesize : public testing::Test {
 protected:
  fs::path write(const std::string& name, const SynthesisShape& shape, int threads = 1,
                 std::uint64_t seed = 0, const Json& config = small_config()) const {
    const fs::path folder = directory_.path() / name;
    write_synthesis(plan_synthesis(config, "config.json", shape),
                    {.folder = folder, .seed = seed, .threads = threads});
    return folder;
  }

  TemporaryDirectory directory_;
};

std::map<std::string, std::vector<std::byte>> all_tensors(const fs::path& folder) {
  const TensorSource source(folder);
  std::map<std::string, std::vector<std::byte>> tensors;
  for (const std::string& name : source.names()) tensors[name] = source.read(name).bytes;
  return tensors;
}

TEST_F(Synthesize, ThreadsAndShardsDoNotChangeAValue) {
  for (const DType dtype : {DType::bf16, DType::f32, DType::f8_e4m3}) {
    const std::string name(dtype_name(dtype));
    const auto one = all_tensors(write(name + "1", {.dtype = dtype}));
    EXPECT_EQ(all_tensors(write(name + "2", {.dtype = dtype}, 3)), one);
    const fs::path cut = write(name + "3", {.dtype = dtype, .shard_bytes = 100'000}, 2);
    EXPECT_TRUE(fs::exists(cut / "model.safetensors.index.json"));
    EXPECT_FALSE(fs::exists(cut / "model.safetensors"));
    EXPECT_EQ(all_tensors(cut), one);
    EXPECT_NE(all_tensors(write(name + "4", {.dtype = dtype}, 1, 1)), one);
  }
}

/// Every architecture the program knows, in every type: what is written is a whole model.
TEST_F(Synthesize, EveryArchitectureIsReadBack) {
  for (const Architecture& architecture : architectures()) {
    for (const DType dtype : {DType::bf16, DType::f16, DType::f32, DType::f8_e4m3}) {
      const std::string type(architecture.model_type);
      const fs::path folder =
          write(type + std::string(dtype_name(dtype)), {.dtype = dtype}, 1, 0, small_config(type));
      const OpenModel model = open_model(folder, {});
      EXPECT_FALSE(model.is_quantized);
      EXPECT_EQ(model.graph.geometry.dtype, dtype == DType::f8_e4m3 ? DType::bf16 : dtype);
      for (const TensorNode& node : model.graph.layers[1].tensors) {
        EXPECT_EQ(model.weights->read(node.name).shape, node.shape) << node.name;
      }
    }
  }
}

struct Moments {
  double mean = 0;
  double deviation = 0;
};

Moments moments_of(const HostTensor& tensor) {
  Moments result;
  const auto values = tensor.as<float>();
  for (const float value : values) result.mean += value;
  result.mean /= static_cast<double>(values.size());
  for (const float value : values) result.deviation += std::pow(value - result.mean, 2);
  result.deviation = std::sqrt(result.deviation / static_cast<double>(values.size()));
  return result;
}

TEST_F(Synthesize, WeightsNormsAndBiasesAreLikeThoseOfAModel) {
  for (const DType dtype : {DType::f32, DType::f8_e4m3}) {
    Json config = small_config("qwen2");
    config["torch_dtype"] = "float32";
    const OpenModel model =
        open_model(write(std::string(dtype_name(dtype)), {.dtype = dtype}, 1, 0, config), {});
    const std::string layer = "model.layers.0.";
    const Moments weight = moments_of(model.weights->read(layer + "mlp.gate_proj.weight"));
    EXPECT_NEAR(weight.mean, 0.0, 0.002);
    EXPECT_NEAR(weight.deviation, 0.05, 0.0015);
    const Moments norm = moments_of(model.weights->read(layer + "input_layernorm.weight"));
    EXPECT_NEAR(norm.mean, 1.0, 0.02);
    EXPECT_NEAR(norm.deviation, 0.05, 0.015);
    const Moments bias = moments_of(model.weights->read(layer + "self_attn.q_proj.bias"));
    EXPECT_NEAR(bias.deviation, 0.005, 0.0015);
  }
}

TEST_F(Synthesize, Fp8IsForLinearModulesAndSaysSo) {
  const fs::path folder = write("fp8", {.dtype = DType::f8_e4m3});
  const TensorSource source(folder);
  const std::string down = "model.layers.0.mlp.down_proj.weight";
  EXPECT_EQ(source.entry(down).dtype, DType::f8_e4m3);
  EXPECT_EQ(source.entry(down + "_scale_inv").dtype, DType::f32);
  EXPECT_EQ(source.entry(down + "_scale_inv").shape, (Shape{2, 2}));  // [160, 200]
  for (const char* plain : {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight",
                            "model.layers.2.input_layernorm.weight"}) {
    EXPECT_EQ(source.entry(plain).dtype, DType::bf16) << plain;
  }
  const Json config = Json::parse(read_text_file(folder / "config.json"));
  EXPECT_EQ(config.at("torch_dtype"), "bfloat16");
  EXPECT_EQ(config.at("quantization_config"), Json({{"activation_scheme", "dynamic"},
                                                    {"fmt", "e4m3"},
                                                    {"quant_method", "fp8"},
                                                    {"weight_block_size", {128, 128}}}));
  // Such a config.json asks for FP8, and for the plain form when told so.
  EXPECT_EQ(plan_synthesis(config, "c", {}).config, config);
  const Json plain =
      plan_synthesis(config, "c", {.dtype = DType::f16, .ignored_fields = {}}).config;
  EXPECT_EQ(plain.at("torch_dtype"), "float16");
  EXPECT_FALSE(plain.contains("quantization_config"));
}

TEST_F(Synthesize, KeepsTheFirstLayers) {
  Json config = small_config("mistral");
  config["sliding_window"] = 8;
  config["layer_types"] = {"full_attention", "sliding_attention", "full_attention"};
  config["dtype"] = "bfloat16";
  config.erase("torch_dtype");
  const fs::path folder = write("cut", {.dtype = DType::f32, .layers = 2}, 1, 0, config);
  const Json written = Json::parse(read_text_file(folder / "config.json"));
  EXPECT_EQ(written.at("num_hidden_layers"), 2);
  EXPECT_EQ(written.at("layer_types"), Json({"full_attention", "sliding_attention"}));
  EXPECT_EQ(written.at("dtype"), "float32");
  EXPECT_FALSE(written.contains("torch_dtype"));
  const auto whole = all_tensors(write("whole", {.dtype = DType::f32}, 1, 0, config));
  for (const auto& [name, bytes] : all_tensors(folder)) EXPECT_EQ(whole.at(name), bytes) << name;
}

/// More elements than one thread writes at a time.
TEST_F(Synthesize, PiecesOfALargeTensorFollowEachOther) {
  Json config = small_config();
  config["vocab_size"] = 30'001;
  const fs::path folder = write("large", {}, 3, 9, config);
  const std::string name = "model.embed_tokens.weight";
  std::vector<std::byte> expected(30'001 * 160 * 2);
  SyntheticValues(DType::bf16, 0.0, 0.05).fill(synthetic_key(9, name), 0, expected);
  EXPECT_EQ(all_tensors(folder).at(name), expected);
}

TEST_F(Synthesize, ShardsAreAsSmallAsAsked) {
  const Synthesis synthesis =
      plan_synthesis(small_config(), "c", {.dtype = DType::f8_e4m3, .shard_bytes = 60'000});
  EXPECT_GT(synthesis.shards.size(), 5U);
  for (const SyntheticShard& shard : synthesis.shards) {
    std::uint64_t bytes = 0;
    for (const SyntheticTensor& tensor : shard.tensors) {
      bytes +=
          static_cast<std::uint64_t>(tensor.spec.shape.elems()) * dtype_bytes(tensor.spec.dtype);
    }
    EXPECT_LE(bytes, 60'000U) << shard.file_name;
  }
}

TEST_F(Synthesize, RefusesWhatItCannotWrite) {
  const auto plan = [](const Json& config, const SynthesisShape& shape = {}) {
    plan_synthesis(config, "c.json", shape);
  };
  EXPECT_THAT(refusal<InputError>([&] { plan(small_config("gpt5")); }),
              AllOf(HasSubstr("c.json"), HasSubstr("'gpt5'"), HasSubstr("'llama'")));
  Json config = small_config();
  config.erase("hidden_size");
  EXPECT_THAT(refusal<InputError>([&] { plan(config); }), HasSubstr("'hidden_size' is missing"));
  config = small_config();
  config["initializer_range"] = "wide";
  EXPECT_THAT(refusal<InputError>([&] { plan(config); }), HasSubstr("initializer_range"));
  config = small_config();
  config["quantization_config"] = {{"quant_method", "gptq"}, {"bits", 4}};
  EXPECT_THAT(refusal<InputError>([&] { plan(config); }), HasSubstr("--dtype"));
  EXPECT_THAT(refusal<ConfigError>([&] { plan(small_config(), {.dtype = {}, .layers = 4}); }),
              AllOf(HasSubstr("--layers 4"), HasSubstr("num_hidden_layers 3")));
}

TEST_F(Synthesize, LosesNothingThatIsThere) {
  const fs::path folder = directory_.path() / "there";
  fs::create_directory(folder);
  const SynthesisTarget target{.folder = folder};
  const Synthesis synthesis = plan_synthesis(small_config(), "c", {});
  write_text_file(folder / "precious", "text");
  EXPECT_THAT(refusal<ConfigError>([&] { write_synthesis(synthesis, target); }),
              AllOf(HasSubstr(folder.string()), HasSubstr("is not empty")));
  EXPECT_EQ(read_text_file(folder / "precious"), "text");
  fs::remove(folder / "precious");
  write_synthesis(synthesis, {.folder = folder / ""});
  EXPECT_TRUE(fs::exists(folder / "model.safetensors"));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), {}), 2);
  EXPECT_EQ(std::distance(fs::directory_iterator(directory_.path()), {}), 1);
}

TEST_F(Synthesize, AFullDiskIsFoundBeforeAnythingIsWritten) {
  Json config = small_config();
  config["num_hidden_layers"] = 4096;
  config["hidden_size"] = 1 << 20;
  config["intermediate_size"] = 1 << 20;
  const fs::path folder = directory_.path() / "vast";
  EXPECT_THAT(refusal<StoreError>([&] { write("vast", {}, 1, 0, config); }),
              AllOf(HasSubstr("needs "), HasSubstr("are free"), HasSubstr("nothing was written")));
  EXPECT_FALSE(fs::exists(folder));
  EXPECT_FALSE(fs::exists(folder.string() + ".partial"));
}

TEST_F(Synthesize, AFailureLeavesNothingBehind) {
  const fs::path folder = directory_.path() / "failed";
  const SynthesisTarget target{.folder = folder, .threads = 2, .hook = [](std::string_view step) {
                                 if (step.starts_with("before rename")) throw StoreError("no");
                               }};
  EXPECT_THROW(write_synthesis(plan_synthesis(small_config(), "c", {}), target), StoreError);
  EXPECT_TRUE(fs::is_empty(directory_.path()));
}

TEST_F(Synthesize, CopiesATokenizer) {
  const fs::path folder = directory_.path() / "text";
  SynthesisTarget target{.folder = folder, .tokenizer = source_dir() / "tests/data/llama3m"};
  write_synthesis(plan_synthesis(small_config(), "c", {}), target);
  EXPECT_EQ(read_text_file(folder / "tokenizer.json"),
            read_text_file(target.tokenizer / "tokenizer.json"));
  target.folder = directory_.path() / "none";
  target.tokenizer = directory_.path();
  EXPECT_THAT(refusal<InputError>(
                  [&] { write_synthesis(plan_synthesis(small_config(), "c", {}), target); }),
              HasSubstr("--tokenizer"));
  EXPECT_FALSE(fs::exists(target.folder));
}

}  // namespace
}  // namespace quern::test
