#include "pipeline/synthesis/synthesis.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "kernels/core/error.h"
#include "pipeline/model/fp8_weights.h"

namespace quern {
namespace {

using Json = nlohmann::ordered_json;

/// Tensors that must not be apart: a weight, or an FP8 weight and its scales.
using Item = std::vector<SyntheticTensor>;

std::string_view torch_name(DType dtype) {
  return dtype == DType::f32 ? "float32" : dtype == DType::f16 ? "float16" : "bfloat16";
}

bool says_fp8(const Json& config) {
  const auto quantization = config.find("quantization_config");
  return quantization != config.end() && quantization->is_object() &&
         quantization->value("quant_method", Json()) == "fp8";
}

/// The type asked for, or the one that config.json describes.
DType chosen_dtype(const Json& config, const ModelGraph& graph, const std::string& origin,
                   std::optional<DType> asked) {
  if (asked) return *asked;
  if (says_fp8(config)) return DType::f8_e4m3;
  const auto quantization = config.find("quantization_config");
  if (quantization != config.end() && !quantization->is_null()) {
    throw InputError(fmt::format(
        "{}: field 'quantization_config' describes a packed model, whose tensors are not "
        "synthesized; expected an original model, or --dtype to write its unpacked form",
        origin));
  }
  return graph.geometry.dtype;
}

double deviation_of(const Json& config, const std::string& origin) {
  const auto field = config.find("initializer_range");
  if (field == config.end() || field->is_null()) return 0.02;
  if (field->is_number() && field->get<double>() > 0.0 && field->get<double>() <= 1.0) {
    return field->get<double>();
  }
  throw InputError(
      fmt::format("{}: field 'initializer_range' is {}; expected a number above 0, at most 1",
                  origin, field->dump()));
}

void keep_layers(Json& config, std::int64_t layers, std::int64_t there) {
  if (layers > there) {
    throw ConfigError(
        fmt::format("--layers {}: config.json has num_hidden_layers {}; expected at most as many",
                    layers, there));
  }
  config["num_hidden_layers"] = layers;
  const auto types = config.find("layer_types");
  if (types == config.end() || !types->is_array()) return;
  types->erase(types->begin() + layers, types->end());
}

/// config.json of the model that is written.
void describe(Json& config, DType dtype, DType plain) {
  if (config.contains("dtype")) config["dtype"] = torch_name(plain);
  if (config.contains("torch_dtype") || !config.contains("dtype")) {
    config["torch_dtype"] = torch_name(plain);
  }
  config.erase("quantization_config");
  if (dtype != DType::f8_e4m3) return;
  const Fp8Blocks blocks;
  config["quantization_config"] = {{"activation_scheme", "dynamic"},
                                   {"fmt", "e4m3"},
                                   {"quant_method", "fp8"},
                                   {"weight_block_size", {blocks.rows, blocks.columns}}};
}

Item make_item(const TensorNode& node, DType dtype, bool is_fp8) {
  if (is_fp8) {
    return {{{node.name, DType::f8_e4m3, node.shape}, SyntheticKind::fp8_weight},
            {{node.name + "_scale_inv", DType::f32, Fp8Blocks{}.scales_of(node.shape)},
             SyntheticKind::fp8_scale}};
  }
  const SyntheticKind kind = node.part == Part::bias  ? SyntheticKind::bias
                             : node.shape.rank() == 1 ? SyntheticKind::norm
                                                      : SyntheticKind::weight;
  return {{{node.name, dtype, node.shape}, kind}};
}

/// In the order of the checkpoint. FP8 is for the linear modules of layers alone.
std::vector<Item> make_items(const ModelGraph& graph, DType dtype, DType plain) {
  std::vector<Item> items = {make_item(graph.tensor(Role::embedding), plain, false)};
  for (const LayerGraph& layer : graph.layers) {
    std::set<std::string> modules;
    for (const LayerInput& input : layer.inputs) {
      for (const LinearModule& module : input.modules) modules.insert(module.weight_name());
    }
    for (const TensorNode& node : layer.tensors) {
      const bool is_fp8 = dtype == DType::f8_e4m3 && modules.contains(node.name);
      items.push_back(make_item(node, plain, is_fp8));
    }
  }
  for (const TensorNode& node : graph.tensors) {
    if (node.role != Role::embedding) items.push_back(make_item(node, plain, false));
  }
  return items;
}

std::uint64_t bytes_of(const std::vector<SyntheticTensor>& tensors) {
  std::uint64_t total = 0;
  for (const auto& [spec, kind] : tensors) {
    total += static_cast<std::uint64_t>(spec.shape.elems()) * dtype_bytes(spec.dtype);
  }
  return total;
}

std::vector<SyntheticShard> cut_into_shards(std::vector<Item> items, std::uint64_t shard_bytes) {
  std::vector<SyntheticShard> shards(1);
  std::uint64_t filled = 0;
  for (Item& item : items) {
    const std::uint64_t bytes = bytes_of(item);
    if (filled > 0 && filled + bytes > shard_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    filled += bytes;
    auto& tensors = shards.back().tensors;
    std::ranges::move(item, std::back_inserter(tensors));
  }
  for (std::size_t i = 0; i < shards.size(); ++i) {
    shards[i].file_name =
        shards.size() == 1 ? "model.safetensors"
                           : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    std::ranges::sort(shards[i].tensors, {}, [](const auto& tensor) { return tensor.spec.name; });
  }
  return shards;
}

}  // namespace

std::uint64_t Synthesis::tensor_bytes() const {
  std::uint64_t total = 0;
  for (const SyntheticShard& shard : shards) total += bytes_of(shard.tensors);
  return total;
}

Synthesis plan_synthesis(const Json& config, const std::string& origin,
                         const SynthesisShape& shape) {
  Synthesis synthesis;
  synthesis.config = config;
  ModelGraph graph = make_model_graph(config, shape.ignored_fields, origin);
  if (shape.layers) {
    keep_layers(synthesis.config, *shape.layers, graph.geometry.layers);
    graph = make_model_graph(synthesis.config, shape.ignored_fields, origin);
  }
  const DType dtype = chosen_dtype(config, graph, origin, shape.dtype);
  const DType plain = dtype == DType::f8_e4m3 ? graph.geometry.dtype : dtype;
  synthesis.deviation = deviation_of(config, origin);
  describe(synthesis.config, dtype, plain);
  synthesis.shards = cut_into_shards(make_items(graph, dtype, plain), shape.shard_bytes);
  return synthesis;
}

}  // namespace quern
