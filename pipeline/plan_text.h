#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "pipeline/plan.h"

namespace quern {

/// The plan with owners for `ranks` ranks and the estimate, as data.
nlohmann::json plan_json(const ModelGraph& graph, const Plan& plan, const RunFile& config,
                         int ranks);

/// The same for people.
std::string plan_text(const nlohmann::json& plan);

}  // namespace quern
