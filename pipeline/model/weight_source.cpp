#include "pipeline/model/weight_source.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "pipeline/model/fp8_weights.h"
#include "pipeline/model/gptq_weights.h"
#include "pipeline/model/squeezellm_weights.h"
#include "workers/files/atomic_file.h"
#include "workers/files/json_file.h"

namespace quern {

namespace {

bool says(const nlohmann::ordered_json& quantization, const char* method) {
  return quantization.is_object() && quantization.contains("quant_method") &&
         quantization.at("quant_method") == method;
}

/// A SqueezeLLM folder as its own tools write it says nothing in config.json.
bool holds_pt_file(const TensorSource& tensors) {
  const std::vector<std::string> names = tensors.names();
  return !names.empty() && tensors.shard_name(names.front()).ends_with(".pt");
}

void open_squeezellm(OpenModel& model, const nlohmann::ordered_json& config,
                     const std::string& origin) {
  auto weights = std::make_unique<SqueezellmWeights>(*model.tensors, config, origin);
  check_squeezellm_checkpoint(model.graph, *model.tensors, *weights);
  model.weights = std::move(weights);
  model.is_quantized = true;
}

void open_fp8(OpenModel& model, const nlohmann::ordered_json& config, DType dtype,
              const std::string& origin) {
  auto weights = std::make_unique<Fp8Weights>(*model.tensors, config, dtype, origin);
  check_checkpoint(model.graph, *model.tensors,
                   [&](const TensorNode& node) { return weights->stored_names(node); });
  model.weights = std::move(weights);
}

}  // namespace

OpenModel open_model(const std::filesystem::path& folder,
                     std::span<const std::string> ignored_fields, DType fp8_as) {
  if (!std::filesystem::is_directory(folder)) {
    throw InputError(
        fmt::format("{}: no such folder; expected a Hugging Face model folder with "
                    "config.json and weights",
                    folder.string()));
  }
  OpenModel model;
  model.folder = folder;
  model.graph = read_model_graph(folder, ignored_fields);
  model.tensors = std::make_unique<TensorSource>(folder);
  const auto config = nlohmann::ordered_json::parse(read_text_file(folder / "config.json"));
  const auto quantization = config.find("quantization_config");
  if (quantization == config.end() || quantization->is_null()) {
    if (holds_pt_file(*model.tensors)) {
      const std::filesystem::path path = folder / "quant_config.json";
      open_squeezellm(model, read_json_file(path), path.string());
      return model;
    }
    check_checkpoint(model.graph, *model.tensors);
    model.weights = std::make_unique<CheckpointWeights>(*model.tensors);
    return model;
  }
  const std::string origin = (folder / "config.json").string() + ": quantization_config";
  if (says(*quantization, "fp8")) {
    open_fp8(model, *quantization, fp8_as, origin);
    return model;
  }
  if (says(*quantization, "squeezellm")) {
    open_squeezellm(model, *quantization, origin);
    return model;
  }
  model.is_quantized = true;
  auto weights = std::make_unique<GptqWeights>(*model.tensors, *quantization, origin);
  check_gptq_checkpoint(model.graph, *model.tensors, *weights);
  model.weights = std::move(weights);
  return model;
}

}  // namespace quern
