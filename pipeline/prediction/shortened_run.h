#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>

#include "pipeline/config/run_config.h"
#include "pipeline/model/model_graph.h"

namespace quern {

/// config.json of a model that consists of some layers of another, in the order given.
nlohmann::ordered_json shortened_config(nlohmann::ordered_json config, const ModelGraph& graph,
                                        std::span<const std::int64_t> layers);

/// The same run on that model: each module is asked for what its original is, and the output has
/// as many files, so that ranks share them alike. Nothing is kept for a resume, and paths are as
/// they were.
RunFile shortened_run(const RunFile& run, const ModelGraph& graph,
                      std::span<const std::int64_t> layers);

}  // namespace quern
