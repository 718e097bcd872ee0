#pragma once

#include <nlohmann/json.hpp>

#include "pipeline/config/run_config.h"
#include "pipeline/model/model_graph.h"

namespace quern {

/// The `dynamic` object of a GPTQ configuration: expressions matched from the start of the full
/// module name, "-:" skips, "+:" overrides; negatives count first, then the first match. Uses the
/// run file's own rules where readers will resolve them as Quern did for every module of the
/// model, and one entry per deviating module otherwise. Empty where nothing deviates.
nlohmann::ordered_json gptq_dynamic(const ModelGraph& graph, const QuantizeConfig& config);

}  // namespace quern
