#include "tests/pipeline/model/tiny_model.h"

#include <fstream>
#include <random>

#include "workers/tensors/safetensors.h"

namespace quern::test {
namespace {

constexpr std::size_t kHidden = 32;
constexpr std::size_t kIntermediate = 48;
constexpr std::size_t kVocab = 61;

class RandomTensors {
 public:
  explicit RandomTensors(ReferenceModel& model) : model_(model) {}

  /// Values that float32 holds exactly.
  void matrix(const std::string& name, std::size_t rows, std::size_t columns, double scale,
              double middle = 0.0) {
    std::normal_distribution<double> normal(middle, scale);
    ReferenceModel::Matrix& matrix = model_.tensors[name];
    matrix = {rows, columns, std::vector<double>(rows * columns)};
    for (double& value : matrix.values)
      value = static_cast<double>(static_cast<float>(normal(engine_)));
  }
  void linear(const std::string& name, std::size_t rows, std::size_t columns, bool bias) {
    matrix(name + ".weight", rows, columns, 0.25);
    if (bias) matrix(name + ".bias", 1, rows, 0.5);
  }

 private:
  ReferenceModel& model_;
  std::mt19937 engine_{7};
};

void fill(TinyModel& model) {
  ReferenceModel& reference = model.reference;
  const std::size_t queries = reference.heads * reference.head_dim;
  const std::size_t keys = reference.kv_heads * reference.head_dim;
  RandomTensors random(reference);
  random.matrix("model.embed_tokens.weight", kVocab, kHidden, 1.0);
  for (std::size_t layer = 0; layer < reference.layers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    random.matrix(prefix + "input_layernorm.weight", 1, kHidden, 0.2, 1.0);
    random.matrix(prefix + "post_attention_layernorm.weight", 1, kHidden, 0.2, 1.0);
    random.linear(prefix + "self_attn.q_proj", queries, kHidden, model.qkv_bias);
    random.linear(prefix + "self_attn.k_proj", keys, kHidden, model.qkv_bias);
    random.linear(prefix + "self_attn.v_proj", keys, kHidden, model.qkv_bias);
    random.linear(prefix + "self_attn.o_proj", kHidden, queries, model.output_bias);
    random.linear(prefix + "mlp.gate_proj", kIntermediate, kHidden, model.mlp_bias);
    random.linear(prefix + "mlp.up_proj", kIntermediate, kHidden, model.mlp_bias);
    random.linear(prefix + "mlp.down_proj", kHidden, kIntermediate, model.mlp_bias);
  }
  random.matrix("model.norm.weight", 1, kHidden, 0.2, 1.0);
  if (!model.tied) random.linear("lm_head", kVocab, kHidden, false);
}

void write_tensors(const std::filesystem::path& path, const ReferenceModel& model) {
  std::vector<TensorSpec> specs;
  for (const auto& [name, matrix] : model.tensors) {
    const auto rows = static_cast<std::int64_t>(matrix.rows);
    const auto columns = static_cast<std::int64_t>(matrix.columns);
    const bool vector = name.ends_with("bias") || name.find("norm") != std::string::npos;
    specs.push_back({name, DType::f32, vector ? Shape{columns} : Shape{rows, columns}});
  }
  SafetensorsWriter writer(path, specs);
  for (const TensorSpec& spec : writer.specs()) {
    const std::vector<double>& values = model.tensors.at(spec.name).values;
    const std::vector<float> single(values.begin(), values.end());
    writer.write(spec.name, std::as_bytes(std::span(single)));
  }
  writer.commit();
}

}  // namespace

void write_tiny_model(const std::filesystem::path& folder, TinyModel& model) {
  const ReferenceModel& reference = model.reference;
  nlohmann::json config = {{"hidden_size", kHidden},
                           {"intermediate_size", kIntermediate},
                           {"vocab_size", kVocab},
                           {"num_hidden_layers", reference.layers},
                           {"num_attention_heads", reference.heads},
                           {"num_key_value_heads", reference.kv_heads},
                           {"max_position_embeddings", 4096},
                           {"rms_norm_eps", reference.epsilon},
                           {"hidden_act", "silu"},
                           {"tie_word_embeddings", model.tied}};
  if (reference.head_dim * reference.heads != kHidden) config["head_dim"] = reference.head_dim;
  config.update(model.config);
  std::ofstream(folder / "config.json") << config.dump(2);
  fill(model);
  write_tensors(folder / "model.safetensors", reference);
}

}  // namespace quern::test
