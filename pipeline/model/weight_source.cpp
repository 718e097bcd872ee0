#include "pipeline/model/weight_source.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "kernels/core/error.h"
#include "pipeline/model/gptq_weights.h"
#include "workers/files/atomic_file.h"

namespace quern {

OpenModel open_model(const std::filesystem::path& folder,
                     std::span<const std::string> ignored_fields) {
  if (!std::filesystem::is_directory(folder)) {
    throw InputError(
        fmt::format("{}: no such folder; expected a Hugging Face model folder with "
                    "config.json and safetensors files",
                    folder.string()));
  }
  OpenModel model;
  model.folder = folder;
  model.graph = read_model_graph(folder, ignored_fields);
  model.tensors = std::make_unique<TensorSource>(folder);
  const auto config = nlohmann::ordered_json::parse(read_text_file(folder / "config.json"));
  const auto quantization = config.find("quantization_config");
  if (quantization == config.end() || quantization->is_null()) {
    check_checkpoint(model.graph, *model.tensors);
    model.weights = std::make_unique<CheckpointWeights>(*model.tensors);
    return model;
  }
  model.is_quantized = true;
  const std::string origin = (folder / "config.json").string() + ": quantization_config";
  auto weights = std::make_unique<GptqWeights>(*model.tensors, *quantization, origin);
  check_gptq_checkpoint(model.graph, *model.tensors, *weights);
  model.weights = std::move(weights);
  return model;
}

}  // namespace quern
