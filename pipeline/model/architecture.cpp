#include "pipeline/model/architecture.h"

#include <fmt/format.h>

#include <array>
#include <string>

#include "kernels/core/error.h"
#include "pipeline/model/llama_block.h"

namespace quern {
namespace {

using G = ModelGeometry;
constexpr auto kHidden = [](const G& g) { return g.hidden; };
constexpr auto kIntermediate = [](const G& g) { return g.intermediate; };
constexpr auto kQueries = [](const G& g) { return g.heads * g.head_dim; };
constexpr auto kKeys = [](const G& g) { return g.kv_heads * g.head_dim; };
constexpr auto kVocab = [](const G& g) { return g.vocab; };
constexpr auto kQkvBias = [](const G& g) { return g.qkv_bias; };
constexpr auto kOutputBias = [](const G& g) { return g.output_bias; };
constexpr auto kMlpBias = [](const G& g) { return g.mlp_bias; };
constexpr auto kOwnHead = [](const G& g) { return !g.tied_head; };

constexpr std::array kLlamaLayer = {
    TensorRow{Role::attention_norm, Part::weight, "input_layernorm.weight", kHidden, nullptr,
              nullptr},
    TensorRow{Role::query, Part::weight, "self_attn.q_proj.weight", kQueries, kHidden, nullptr},
    TensorRow{Role::query, Part::bias, "self_attn.q_proj.bias", kQueries, nullptr, kQkvBias},
    TensorRow{Role::key, Part::weight, "self_attn.k_proj.weight", kKeys, kHidden, nullptr},
    TensorRow{Role::key, Part::bias, "self_attn.k_proj.bias", kKeys, nullptr, kQkvBias},
    TensorRow{Role::value, Part::weight, "self_attn.v_proj.weight", kKeys, kHidden, nullptr},
    TensorRow{Role::value, Part::bias, "self_attn.v_proj.bias", kKeys, nullptr, kQkvBias},
    TensorRow{Role::attention_output, Part::weight, "self_attn.o_proj.weight", kHidden, kQueries,
              nullptr},
    TensorRow{Role::attention_output, Part::bias, "self_attn.o_proj.bias", kHidden, nullptr,
              kOutputBias},
    TensorRow{Role::mlp_norm, Part::weight, "post_attention_layernorm.weight", kHidden, nullptr,
              nullptr},
    TensorRow{Role::gate, Part::weight, "mlp.gate_proj.weight", kIntermediate, kHidden, nullptr},
    TensorRow{Role::gate, Part::bias, "mlp.gate_proj.bias", kIntermediate, nullptr, kMlpBias},
    TensorRow{Role::up, Part::weight, "mlp.up_proj.weight", kIntermediate, kHidden, nullptr},
    TensorRow{Role::up, Part::bias, "mlp.up_proj.bias", kIntermediate, nullptr, kMlpBias},
    TensorRow{Role::down, Part::weight, "mlp.down_proj.weight", kHidden, kIntermediate, nullptr},
    TensorRow{Role::down, Part::bias, "mlp.down_proj.bias", kHidden, nullptr, kMlpBias},
};

constexpr std::array kLlamaModel = {
    TensorRow{Role::embedding, Part::weight, "model.embed_tokens.weight", kVocab, kHidden, nullptr},
    TensorRow{Role::final_norm, Part::weight, "model.norm.weight", kHidden, nullptr, nullptr},
    TensorRow{Role::head, Part::weight, "lm_head.weight", kVocab, kHidden, kOwnHead},
};

constexpr std::array kAttentionReaders = {Role::query, Role::key, Role::value};
constexpr std::array kOutputReaders = {Role::attention_output};
constexpr std::array kMlpReaders = {Role::gate, Role::up};
constexpr std::array kDownReaders = {Role::down};

constexpr std::array kLlamaInputs = {
    InputRow{"attention", 0, kAttentionReaders, kHidden},
    InputRow{"attention_output", 1, kOutputReaders, kQueries},
    InputRow{"mlp", 2, kMlpReaders, kHidden},
    InputRow{"mlp_hidden", 3, kDownReaders, kIntermediate},
};

constexpr std::array<std::string_view, 3> kLlamaIgnored = {"rotary_emb.inv_freq",
                                                           "attn.masked_bias", "attn.bias"};

std::unique_ptr<DecoderBlock> make_llama_block(const ModelGeometry& geometry, std::int64_t layer,
                                               ConstTensorView rope, Backend& backend) {
  return std::make_unique<LlamaBlock>(geometry, layer, rope, backend);
}

constexpr Architecture llama_like(std::string_view model_type, const ConfigDefaults& defaults) {
  return {model_type,  defaults,     "model.layers.{}.", kLlamaLayer,
          kLlamaModel, kLlamaInputs, kLlamaIgnored,      make_llama_block};
}

/// LLaMA 1/2/3, Vicuna, XGen, CodeLlama and Yi call themselves "llama"; early Yi files say "Yi".
constexpr std::array kArchitectures = {
    llama_like("llama", {}),
    llama_like("Yi", {.rope_theta = 5e6}),
    llama_like("mistral", {.window = 4096}),
    llama_like("qwen2",
               {.qkv_bias = true, .window_needs_switch = true, .window = 4096, .full_layers = 28}),
};

}  // namespace

std::span<const Architecture> architectures() {
  return kArchitectures;
}

const Architecture& find_architecture(std::string_view model_type, std::string_view origin) {
  std::string known;
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.model_type == model_type) return architecture;
    known += fmt::format("{}'{}'", known.empty() ? "" : ", ", architecture.model_type);
  }
  throw InputError(
      fmt::format("{}: field 'model_type' is '{}'; supported are {}", origin, model_type, known));
}

}  // namespace quern
