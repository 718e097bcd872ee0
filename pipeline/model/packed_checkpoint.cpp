#include "pipeline/model/packed_checkpoint.h"

#include <fmt/format.h>

#include <vector>

#include "kernels/core/error.h"

namespace quern {

std::string packed_module(std::string_view name) {
  constexpr std::string_view suffix = ".weight";
  if (!name.ends_with(suffix)) return {};
  return std::string(name.substr(0, name.size() - suffix.size()));
}

void check_packed_checkpoint(
    const ModelGraph& graph, const TensorSource& source,
    const std::function<bool(const TensorNode&, const std::string& module)>& check_packed) {
  std::vector<const TensorNode*> nodes;
  for (const TensorNode& node : graph.tensors) nodes.push_back(&node);
  for (const LayerGraph& layer : graph.layers) {
    for (const TensorNode& node : layer.tensors) nodes.push_back(&node);
  }
  for (const TensorNode* node : nodes) {
    const std::string module = node->name.substr(0, node->name.rfind('.'));
    if (node->part == Part::weight && check_packed(*node, module)) continue;
    const TensorEntry& entry = source.entry(node->name);
    if (entry.shape == node->shape && is_plain_float(entry.dtype)) continue;
    throw InputError(
        fmt::format("{}: tensor '{}' is {} {}; config.json calls for a float tensor of "
                    "shape {}",
                    source.folder().string(), node->name, dtype_name(entry.dtype),
                    entry.shape.text(), node->shape.text()));
  }
}

}  // namespace quern
