#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "pipeline/model/model_graph.h"
#include "workers/tensors/tensor_source.h"

namespace quern {

/// The module whose weight may be packed under other names than this one, "<module>.weight"; empty
/// for any other name.
std::string packed_module(std::string_view name);

/// As check_checkpoint, for a graph whose linear layers may be packed. `check_packed` is called for
/// every weight with its module; it returns false for a module that is not packed, and throws
/// InputError for one that does not fit its weight.
void check_packed_checkpoint(
    const ModelGraph& graph, const TensorSource& source,
    const std::function<bool(const TensorNode&, const std::string& module)>& check_packed);

}  // namespace quern
