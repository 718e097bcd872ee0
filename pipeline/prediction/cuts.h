#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "pipeline/prediction/layer_kinds.h"

namespace quern {

/// The layers of one rehearsal, by their index in the whole model, and what it adds to the short
/// one.
struct Cut {
  std::vector<std::int64_t> layers;
  std::int64_t added = 0;    ///< layers of one kind
  std::int64_t missing = 0;  ///< layers of this kind in the whole model beyond the short one
};

/// The short rehearsal, with every kind of layer, then one for each kind that the model has more
/// of.
std::vector<Cut> cuts_of(std::span<const LayerKind> kinds);

std::int64_t most_layers(std::span<const Cut> cuts);

}  // namespace quern
