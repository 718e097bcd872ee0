#include "pipeline/model/geometry.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <numbers>

#include "kernels/core/error.h"
#include "pipeline/model/config_reader.h"

namespace quern {
namespace {

constexpr std::int64_t kMaxDim = std::int64_t{1} << 24;

/// Fields of config.json that do not change what a forward pass computes.
constexpr std::array<std::string_view, 37> kNoEffect = {"architectures",
                                                        "attention_dropout",
                                                        "hidden_dropout",
                                                        "dropout",
                                                        "bos_token_id",
                                                        "eos_token_id",
                                                        "pad_token_id",
                                                        "unk_token_id",
                                                        "sep_token_id",
                                                        "initializer_range",
                                                        "use_cache",
                                                        "torch_dtype",
                                                        "dtype",
                                                        "transformers_version",
                                                        "auto_map",
                                                        "pretraining_tp",
                                                        "name_or_path",
                                                        "tokenizer_class",
                                                        "output_attentions",
                                                        "output_hidden_states",
                                                        "return_dict",
                                                        "use_return_dict",
                                                        "torchscript",
                                                        "task_specific_params",
                                                        "problem_type",
                                                        "id2label",
                                                        "label2id",
                                                        "gradient_checkpointing",
                                                        "model_type",
                                                        "max_window_layers",
                                                        "max_sequence_length",
                                                        "unsloth_version",
                                                        "is_decoder",
                                                        "chunk_size_feed_forward",
                                                        "finetuning_task",
                                                        "bad_words_ids",
                                                        "quantization_config"};

DType read_dtype(ConfigReader& reader) {
  const std::string name = reader.text_or("dtype", reader.text_or("torch_dtype", "bfloat16"));
  if (name == "bfloat16" || name == "auto") return DType::bf16;
  if (name == "float16") return DType::f16;
  if (name == "float32") return DType::f32;
  reader.fail(reader.has("dtype") ? "dtype" : "torch_dtype", "float32, float16 or bfloat16");
}

Activation read_activation(ConfigReader& reader) {
  const std::string name = reader.text_or("hidden_act", "silu");
  if (name == "silu" || name == "swish") return Activation::silu;
  if (name == "relu") return Activation::relu;
  if (name == "gelu_pytorch_tanh") return Activation::gelu_tanh;
  reader.fail("hidden_act", "silu, relu or gelu_pytorch_tanh");
}

/// The object that describes the rope: new configs hold theta in it, old ones beside it.
RopeSpec read_rope(ConfigReader& reader, double default_theta) {
  const bool new_style = reader.has("rope_parameters");
  RopeSpec rope;
  rope.theta = reader.number_or("rope_theta", default_theta, 1.0, 1e12);
  const std::string key = new_style ? "rope_parameters" : "rope_scaling";
  const nlohmann::json& object = reader.raw(key);
  reader.raw("rope_scaling");
  if (object.is_null()) return rope;
  ConfigReader fields(object, fmt::format("{}: {}", reader.origin(), key));
  rope.theta = fields.number_or("rope_theta", rope.theta, 1.0, 1e12);
  fields.require("partial_rotary_factor", 1.0);
  const std::string type = fields.text_or("rope_type", fields.text_or("type", "default"));
  fields.raw("type");
  if (type == "linear") {
    rope.type = RopeSpec::Type::linear;
    rope.factor = fields.number_or("factor", 0.0, 1.0, 1e6);
  } else if (type == "llama3") {
    rope.type = RopeSpec::Type::llama3;
    rope.factor = fields.number_or("factor", 0.0, 1.0, 1e6);
    rope.low_freq_factor = fields.number_or("low_freq_factor", 0.0, 1e-3, 1e6);
    rope.high_freq_factor = fields.number_or("high_freq_factor", 0.0, 1e-3, 1e6);
    rope.original_positions =
        static_cast<double>(fields.integer("original_max_position_embeddings", 1, kMaxDim));
    if (rope.low_freq_factor <= 0 || rope.high_freq_factor <= rope.low_freq_factor) {
      fields.fail("high_freq_factor", "a number above low_freq_factor");
    }
  } else if (type != "default") {
    fields.fail(fields.has("rope_type") ? "rope_type" : "type", "default, linear or llama3");
  }
  if (rope.factor <= 0) fields.fail("factor", "a number of at least 1");
  fields.refuse_unread();
  return rope;
}

/// Sliding window of every layer.
std::vector<std::int64_t> read_windows(ConfigReader& reader, const ConfigDefaults& defaults,
                                       std::int64_t layers) {
  const std::int64_t silent = reader.contains("sliding_window") ? 0 : defaults.window;
  std::int64_t window = reader.integer_or("sliding_window", silent, 0, kMaxDim);
  const bool switched_on = reader.boolean_or("use_sliding_window", !defaults.window_needs_switch);
  if (defaults.window == 0 || !switched_on) window = 0;
  std::vector<std::int64_t> windows(static_cast<std::size_t>(layers), window);
  const nlohmann::json& types = reader.raw("layer_types");
  if (types.is_array()) {
    if (types.size() != windows.size()) reader.fail("layer_types", "one entry per layer");
    for (std::size_t layer = 0; layer < windows.size(); ++layer) {
      const bool sliding = types[layer] == "sliding_attention";
      if (!sliding && types[layer] != "full_attention") {
        reader.fail("layer_types", "full_attention or sliding_attention entries");
      }
      if (sliding && window == 0) reader.fail("sliding_window", "a width for sliding_attention");
      if (!sliding) windows[layer] = 0;
    }
  } else if (!types.is_null()) {
    reader.fail("layer_types", "a list with one entry per layer");
  } else if (defaults.window_needs_switch && window > 0) {
    const std::int64_t first =
        reader.integer_or("max_window_layers", defaults.full_layers, 0, kMaxDim);
    for (std::int64_t layer = 0; layer < std::min(first, layers); ++layer) {
      windows[static_cast<std::size_t>(layer)] = 0;
    }
  }
  return windows;
}

void read_dimensions(ConfigReader& reader, ModelGeometry& geometry) {
  geometry.hidden = reader.integer("hidden_size", 1, kMaxDim);
  geometry.intermediate = reader.integer("intermediate_size", 1, kMaxDim);
  geometry.layers = reader.integer("num_hidden_layers", 1, 4096);
  geometry.heads = reader.integer("num_attention_heads", 1, kMaxDim);
  geometry.kv_heads = reader.integer_or("num_key_value_heads", geometry.heads, 1, kMaxDim);
  geometry.vocab = reader.integer("vocab_size", 1, kMaxDim);
  geometry.max_positions = reader.integer("max_position_embeddings", 1, kMaxDim);
  if (!reader.has("head_dim") && geometry.hidden % geometry.heads != 0) {
    reader.fail("num_attention_heads", fmt::format("a divisor of hidden_size {}", geometry.hidden));
  }
  geometry.head_dim = reader.integer_or("head_dim", geometry.hidden / geometry.heads, 2, kMaxDim);
  if (geometry.head_dim % 2 != 0) reader.fail("head_dim", "an even number");
  if (geometry.heads % geometry.kv_heads != 0) {
    reader.fail("num_key_value_heads",
                fmt::format("a divisor of num_attention_heads {}", geometry.heads));
  }
}

}  // namespace

ModelGeometry read_geometry(const nlohmann::json& config, const ConfigDefaults& defaults,
                            std::span<const std::string> ignored_fields, std::string_view origin) {
  ConfigReader reader(config, std::string(origin));
  ModelGeometry geometry;
  geometry.model_type = reader.text_or("model_type", "");
  geometry.dtype = read_dtype(reader);
  read_dimensions(reader, geometry);
  geometry.norm_epsilon = reader.number_or("rms_norm_eps", 1e-6, 0.0, 1.0);
  geometry.activation = read_activation(reader);
  geometry.rope = read_rope(reader, defaults.rope_theta);
  geometry.window = read_windows(reader, defaults, geometry.layers);
  const bool attention_bias = reader.boolean_or("attention_bias", false);
  geometry.qkv_bias = defaults.qkv_bias || attention_bias;
  geometry.output_bias = attention_bias;
  geometry.mlp_bias = reader.boolean_or("mlp_bias", false);
  geometry.tied_head = reader.boolean_or("tie_word_embeddings", defaults.tied_head);
  if (reader.raw("bos_token_id").is_number_integer()) {
    geometry.bos_id = static_cast<std::int32_t>(reader.integer("bos_token_id", 0, kMaxDim));
  }
  reader.require("is_encoder_decoder", false);
  reader.require("add_cross_attention", false);
  reader.require("partial_rotary_factor", 1.0);
  reader.require("use_mrope", false);
  reader.ignore(kNoEffect);
  for (const std::string& field : ignored_fields) reader.raw(field);
  reader.refuse_unread();
  return geometry;
}

std::vector<float> rope_table(const RopeSpec& rope, std::int64_t positions, std::int64_t head_dim) {
  const std::int64_t half = head_dim / 2;
  std::vector<float> table(static_cast<std::size_t>(positions * head_dim));
  for (std::int64_t i = 0; i < half; ++i) {
    double frequency =
        std::pow(rope.theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    if (rope.type == RopeSpec::Type::linear) frequency /= rope.factor;
    if (rope.type == RopeSpec::Type::llama3) {
      // Llama 3.1: long wavelengths are stretched by factor, short ones kept, a ramp in between.
      const double turns = rope.original_positions * frequency / (2.0 * std::numbers::pi);
      const double ramp =
          (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
      const double kept = std::clamp(ramp, 0.0, 1.0);
      frequency *= kept + (1.0 - kept) / rope.factor;
    }
    // The reference models form the angle in float32.
    const auto single = static_cast<float>(frequency);
    for (std::int64_t position = 0; position < positions; ++position) {
      const double angle = static_cast<float>(position) * single;
      float* row = table.data() + position * head_dim;
      row[i] = static_cast<float>(std::cos(angle));
      row[half + i] = static_cast<float>(std::sin(angle));
    }
  }
  return table;
}

}  // namespace quern
