#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "kernels/core/shape.h"
#include "pipeline/model/architecture.h"
#include "pipeline/model/geometry.h"
#include "workers/tensors/tensor_source.h"

namespace quern {

/// A tensor the model needs, by its checkpoint name.
struct TensorNode {
  Role role;
  Part part;
  std::string name;
  Shape shape{0};
};

/// A linear layer, by its checkpoint name without ".weight".
struct LinearModule {
  Role role;
  std::string name;
  std::int64_t out_features = 0;
  std::int64_t in_features = 0;

  std::string weight_name() const { return name + ".weight"; }
  std::string bias_name() const { return name + ".bias"; }
};

/// An activation and the modules that read it.
struct LayerInput {
  std::string name;
  int stage = 0;
  std::int64_t features = 0;
  std::vector<LinearModule> modules;
};

struct LayerGraph {
  std::int64_t index = 0;
  std::vector<TensorNode> tensors;
  std::vector<LayerInput> inputs;  ///< in order of stage

  int stages() const noexcept { return inputs.empty() ? 0 : inputs.back().stage + 1; }
};

/// Architecture table x config.json: every tensor and module by name and shape, no weights.
struct ModelGraph {
  const Architecture* architecture = nullptr;
  ModelGeometry geometry;
  std::vector<LayerGraph> layers;
  std::vector<TensorNode> tensors;  ///< embedding, final norm, head (absent if tied)

  /// The head as a module; its weight is the embedding's where they are tied.
  LinearModule head() const;
  const TensorNode& tensor(Role role) const;
};

/// Graph of a parsed config.json (`origin` for messages). InputError as in read_geometry.
ModelGraph make_model_graph(const nlohmann::json& config,
                            std::span<const std::string> ignored_fields, const std::string& origin);

/// Reads config.json of a model folder; needs no weights. InputError as in read_geometry.
ModelGraph read_model_graph(const std::filesystem::path& folder,
                            std::span<const std::string> ignored_fields);

/// The checkpoint tensors that together stand for a tensor of the graph, checked; none where it is
/// stored as itself.
using StoredNames = std::function<std::vector<std::string>(const TensorNode&)>;

/// Throws InputError unless the checkpoint holds exactly the graph's tensors (and ignorable ones),
/// each of the graph's shape and a plain float type, or what `stored` names for it; the message
/// names the tensor and both shapes.
void check_checkpoint(const ModelGraph& graph, const TensorSource& source,
                      const StoredNames& stored = {});

}  // namespace quern
