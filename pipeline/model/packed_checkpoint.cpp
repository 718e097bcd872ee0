#include "pipeline/model/packed_checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "kernels/core/error.h"

namespace quern {

std::string packed_module(std::string_view name) {
  constexpr std::string_view suffix = ".weight";
  if (!name.ends_with(suffix)) return {};
  return std::string(name.substr(0, name.size() - suffix.size()));
}

TensorSpec spec_of(std::string name, const HostTensor& tensor) {
  return {std::move(name), tensor.dtype, tensor.shape};
}

void expect_tensor(const TensorSpec& tensor, DType dtype, const Shape& shape) {
  if (tensor.dtype == dtype && tensor.shape == shape) return;
  throw InputError(fmt::format("tensor '{}' is {} {}; expected {} {}", tensor.name,
                               dtype_name(tensor.dtype), tensor.shape.text(), dtype_name(dtype),
                               shape.text()));
}

void read_columns(const TensorSource& source, const std::string& name, const TakeColumns& take) {
  constexpr std::int64_t kStripBytes = 4 << 20;
  constexpr std::int64_t kFewest = 256;  // so that a read is worth its call
  const std::optional<StoredTensor> stored = source.stored(name);
  if (!stored) return take(0, source.read(name));
  const Shape& shape = source.entry(name).shape;
  const auto element = static_cast<std::int64_t>(dtype_bytes(stored->dtype));
  const std::int64_t most = std::max(kFewest, kStripBytes / (shape[0] * element));
  for (std::int64_t first = 0; first < shape[1]; first += most) {
    HostTensor strip(stored->dtype, {shape[0], std::min(most, shape[1] - first)});
    const auto line = static_cast<std::size_t>(strip.shape[1] * element);
    for (std::int64_t row = 0; row < shape[0]; ++row) {
      stored->read(static_cast<std::uint64_t>((row * shape[1] + first) * element),
                   std::span(strip.bytes).subspan(static_cast<std::size_t>(row) * line, line));
    }
    take(first, strip);
  }
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
