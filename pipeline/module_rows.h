#pragma once

#include <nlohmann/json.hpp>
#include <vector>

#include "pipeline/quantized_module.h"
#include "pipeline/run_context.h"

namespace quern {

/// Collective. What is known of every committed module, in order of the plan, on every rank: the
/// rows of summary_rows(). Each rank reads its share of the bundles.
nlohmann::json module_rows(RunContext& context);

std::vector<ModuleSummary> read_summaries(const nlohmann::json& rows);

}  // namespace quern
