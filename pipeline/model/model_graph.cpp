#include "pipeline/model/model_graph.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "kernels/core/error.h"
#include "workers/files/json_file.h"

namespace quern {
namespace {

std::vector<TensorNode> expand(std::span<const TensorRow> rows, const ModelGeometry& geometry,
                               const std::string& prefix) {
  std::vector<TensorNode> nodes;
  for (const TensorRow& row : rows) {
    if (row.present != nullptr && !row.present(geometry)) continue;
    const Shape shape = row.columns == nullptr ? Shape{row.rows(geometry)}
                                               : Shape{row.rows(geometry), row.columns(geometry)};
    nodes.push_back({row.role, row.part, prefix + std::string(row.name), shape});
  }
  return nodes;
}

LinearModule as_module(const TensorNode& node) {
  constexpr std::string_view suffix = ".weight";
  return {node.role, node.name.substr(0, node.name.size() - suffix.size()), node.shape[0],
          node.shape[1]};
}

LayerGraph make_layer(const Architecture& architecture, const ModelGeometry& geometry,
                      std::int64_t index) {
  LayerGraph layer;
  layer.index = index;
  layer.tensors = expand(architecture.layer_tensors, geometry,
                         fmt::format(fmt::runtime(architecture.layer_prefix), index));
  for (const InputRow& row : architecture.inputs) {
    LayerInput input{std::string(row.name), row.stage, row.features(geometry), {}};
    for (const Role reader : row.readers) {
      const auto node = std::ranges::find_if(layer.tensors, [&](const TensorNode& candidate) {
        return candidate.role == reader && candidate.part == Part::weight;
      });
      ensure(node != layer.tensors.end(), "a weight for every reader of an input");
      input.modules.push_back(as_module(*node));
    }
    layer.inputs.push_back(std::move(input));
  }
  return layer;
}

void check_tensor(const TensorNode& node, const TensorSource& source) {
  const TensorEntry& entry = source.entry(node.name);
  const std::string file = (source.folder() / source.shard_name(node.name)).string();
  if (entry.shape != node.shape) {
    throw InputError(fmt::format("{}: tensor '{}' has shape {}; config.json calls for {}", file,
                                 node.name, entry.shape.text(), node.shape.text()));
  }
  if (!is_plain_float(entry.dtype)) {
    throw InputError(fmt::format("{}: tensor '{}' has type {}; expected F32, F16 or BF16", file,
                                 node.name, dtype_name(entry.dtype)));
  }
}

}  // namespace

const TensorNode& ModelGraph::tensor(Role role) const {
  const auto node = std::ranges::find(tensors, role, &TensorNode::role);
  ensure(node != tensors.end(), "a tensor of this role outside the layers");
  return *node;
}

LinearModule ModelGraph::head() const {
  return as_module(tensor(geometry.tied_head ? Role::embedding : Role::head));
}

ModelGraph make_model_graph(const nlohmann::json& config,
                            std::span<const std::string> ignored_fields,
                            const std::string& origin) {
  const auto type = config.is_object() ? config.find("model_type") : config.end();
  if (type == config.end() || !type->is_string()) {
    throw InputError(
        fmt::format("{}: field 'model_type' is missing; expected a Hugging Face model "
                    "configuration",
                    origin));
  }
  ModelGraph graph;
  graph.architecture = &find_architecture(type->get<std::string>(), origin);
  graph.geometry = read_geometry(config, graph.architecture->defaults, ignored_fields, origin);
  graph.tensors = expand(graph.architecture->model_tensors, graph.geometry, "");
  for (std::int64_t index = 0; index < graph.geometry.layers; ++index) {
    graph.layers.push_back(make_layer(*graph.architecture, graph.geometry, index));
  }
  return graph;
}

ModelGraph read_model_graph(const std::filesystem::path& folder,
                            std::span<const std::string> ignored_fields) {
  const std::filesystem::path path = folder / "config.json";
  return make_model_graph(read_json_file(path), ignored_fields, path.string());
}

void check_checkpoint(const ModelGraph& graph, const TensorSource& source,
                      const StoredNames& stored) {
  std::set<std::string> known;
  const auto check_all = [&](const std::vector<TensorNode>& nodes) {
    for (const TensorNode& node : nodes) {
      const std::vector<std::string> names = stored ? stored(node) : std::vector<std::string>{};
      if (names.empty()) check_tensor(node, source);
      known.insert(node.name);
      known.insert(names.begin(), names.end());
    }
  };
  check_all(graph.tensors);
  for (const LayerGraph& layer : graph.layers) check_all(layer.tensors);
  for (const std::string& name : source.names()) {
    if (known.contains(name)) continue;
    if (graph.geometry.tied_head && name == "lm_head.weight") continue;
    const auto& suffixes = graph.architecture->ignored_suffixes;
    if (std::ranges::any_of(suffixes, [&](auto suffix) { return name.ends_with(suffix); }))
      continue;
    throw InputError(fmt::format(
        "{}: tensor '{}' is not part of a '{}' model as config.json describes it; it would be lost "
        "and may change the computation",
        (source.folder() / source.shard_name(name)).string(), name, graph.geometry.model_type));
  }
}

}  // namespace quern
