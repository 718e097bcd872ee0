#include <gtest/gtest.h>

#include "tests/e2e/hostile_case.h"
#include "tests/e2e/run_folder.h"

namespace quern::test {
namespace {

using Json = HostileFolder::Json;
using Spoil = std::function<void(HostileFolder&)>;

/// config.json with one field set.
Spoil field(const std::string& name, const Json& value) {
  return [name, value](HostileFolder& folder) {
    folder.edit_config([&](Json& config) { config[name] = value; });
  };
}

Spoil rope(const Json& value) {
  return field("rope_parameters", value);
}

Spoil text(const std::string& contents) {
  return [contents](HostileFolder& folder) { folder.write("model/config.json", contents); };
}

const std::vector<HostileCase> kRows = {
    {"Missing",
     65,
     {"model/config.json: No such file"},
     [](HostileFolder& folder) { folder.erase("model/config.json"); }},
    {"Empty", 65, {"config.json:1:1: invalid JSON"}, text("")},
    {"BadJson", 65, {"config.json:1:25: invalid JSON"}, text(R"({"model_type": "llama", })")},
    {"NotAnObject", 65, {"config.json: field 'model_type' is missing"}, text("[1]")},
    {"NotUtf8", 65, {"config.json:1:", "invalid JSON"}, text("{\"model_type\": \"\xff\xfe\"}")},
    {"DuplicateKey",
     65,
     {"config.json:31:3: the key \"vocab_size\" appears twice"},
     [](HostileFolder& folder) {
       std::string config = contents_of(folder.model("config.json"));
       folder.write("model/config.json",
                    config.replace(config.find('{'), 1, R"({"vocab_size": 4096,)"));
     }},
    {"UnknownModelType",
     65,
     {"config.json: field 'model_type' is 'mamba'; supported are 'llama'"},
     field("model_type", "mamba")},
    {"ModelTypeNotText", 65, {"config.json: field 'model_type'"}, field("model_type", 7)},
    {"UnknownField",
     65,
     {"config.json: field 'logit_soft_cap' = 30.0 is not known", "model.ignore_fields"},
     field("logit_soft_cap", 30.0)},
    {"PartialRotary",
     65,
     {"config.json: field 'partial_rotary_factor' is 0.5; expected 1.0"},
     field("partial_rotary_factor", 0.5)},
    {"PartialRotaryInRope",
     65,
     {"config.json: rope_parameters: field 'partial_rotary_factor'"},
     rope({{"rope_type", "default"}, {"rope_theta", 1e4}, {"partial_rotary_factor", 0.5}})},
    {"Activation",
     65,
     {"config.json: field 'hidden_act' is \"gelu\"; expected silu"},
     field("hidden_act", "gelu")},
    {"RopeYarn",
     65,
     {"config.json: rope_parameters: field 'rope_type' is \"yarn\"; expected"},
     rope({{"rope_type", "yarn"}, {"factor", 4.0}})},
    {"RopeDynamic",
     65,
     {"rope_parameters: field 'rope_type' is \"dynamic\"; expected default"},
     rope({{"rope_type", "dynamic"}, {"factor", 2.0}})},
    {"RopeUnknown", 65, {"field 'type' is \"spiral\"; expected"}, rope({{"type", "spiral"}})},
    {"RopeUnknownField",
     65,
     {"rope_parameters: field 'twist' = 2 is not known"},
     rope({{"rope_type", "default"}, {"twist", 2}})},
    {"RopeNotAnObject", 65, {"config.json: rope_parameters: expected a JSON object"}, rope("long")},
    {"HeadsDoNotDivide",
     65,
     {"field 'num_attention_heads' is 5; expected a divisor of"},
     [](HostileFolder& folder) {
       folder.edit_config([](Json& config) {
         config.erase("head_dim");
         config["num_attention_heads"] = 5;
       });
     }},
    {"KeyHeadsDoNotDivide",
     65,
     {"field 'num_key_value_heads' is 2; expected a divisor of"},
     field("num_key_value_heads", 2)},
    {"HeadsZero",
     65,
     {"field 'num_attention_heads' is 0; expected a whole number from 1"},
     field("num_attention_heads", 0)},
    {"OddHead", 65, {"field 'head_dim' is 63; expected an even number"}, field("head_dim", 63)},
    {"LayersZero",
     65,
     {"field 'num_hidden_layers' is 0; expected a whole number from 1"},
     field("num_hidden_layers", 0)},
    {"LayersHuge",
     65,
     {"field 'num_hidden_layers' is 1000000000; expected"},
     field("num_hidden_layers", 1'000'000'000)},
    {"LayersMoreThanStored",
     65,
     {"/model: the model has no tensor \"model.layers.4."},
     field("num_hidden_layers", 5)},
    {"LayersFewerThanStored",
     65,
     {"tensor 'model.layers.3.", "is not part of a 'llama' model"},
     field("num_hidden_layers", 3)},
    {"HiddenHuge",
     65,
     {"field 'hidden_size' is 18446744073709551615; expected"},
     field("hidden_size", UINT64_MAX)},
    {"HiddenText",
     65,
     {"field 'hidden_size' is \"192\"; expected a whole number"},
     field("hidden_size", "192")},
    {"HiddenFractional",
     65,
     {"field 'hidden_size' is 192.5; expected a whole number"},
     field("hidden_size", 192.5)},
    {"VocabularyOtherThanStored",
     65,
     {"'model.embed_tokens.weight' has shape [4096, 192]", "config.json calls for [5000, 192]"},
     field("vocab_size", 5000)},
    {"LayerTypesTooFew",
     65,
     {"field 'layer_types' is", "expected one entry per layer"},
     field("layer_types", {"full_attention"})},
    {"LayerTypeUnknown",
     65,
     {"field 'layer_types' is", "expected full_attention or"},
     field("layer_types", {"full_attention", "full_attention", "full_attention", "linear"})},
    {"LayerTypesNotAList",
     65,
     {"field 'layer_types' is \"full\"; expected"},
     field("layer_types", "full")},
    {"TiedNotABoolean",
     65,
     {"field 'tie_word_embeddings' is \"no\"; expected true or false"},
     field("tie_word_embeddings", "no")},
    {"TypeUnknown",
     65,
     {"field 'dtype' is \"int4\"; expected float32, float16 or bfloat16"},
     field("dtype", "int4")},
    {"QuantizedAwq",
     65,
     {"config.json: quantization_config: quant_method 'awq'", "unquantized"},
     field("quantization_config", {{"quant_method", "awq"}, {"bits", 4}})},
    {"QuantizedNotAnObject",
     65,
     {"config.json: quantization_config: is string; expected"},
     field("quantization_config", "awq")},
    {"QuantizedGptq",
     65,
     {"/model: the model is quantized already", "expected an unquantized model"},
     field("quantization_config",
           {{"quant_method", "gptq"}, {"checkpoint_format", "gptq"}, {"bits", 4}})},
};

class HostileConfig : public testing::TestWithParam<HostileCase> {};

TEST_P(HostileConfig, IsAnswered) {
  check_hostile_case(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Rows, HostileConfig, testing::ValuesIn(kRows), name_of_case);

}  // namespace
}  // namespace quern::test
