#pragma once

#include <cstdint>
#include <vector>

#include "pipeline/model/model_graph.h"
#include "pipeline/plan.h"

namespace quern {

/// Layers that take the same: equal tensors, attention and grids of their modules.
struct LayerKind {
  std::int64_t first = 0;  ///< the first layer of this kind
  std::int64_t count = 0;
};

inline constexpr std::size_t kMostLayerKinds = 4;

/// The kinds of a run's layers, the most frequent first; of more than kMostLayerKinds, a rare one
/// counts as the frequent one whose work is nearest.
std::vector<LayerKind> layer_kinds(const ModelGraph& graph, const Plan& plan);

}  // namespace quern
