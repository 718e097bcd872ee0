#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "pipeline/report/heat_map.h"

namespace quern {

/// "model.layers.7.self_attn.q_proj" is layer 7, kind "self_attn.q_proj"; numbers inside a kind,
/// such as those of experts, are "*". A name without a layer is its own kind.
struct ModulePlace {
  std::optional<std::size_t> layer;
  std::string kind;
};
ModulePlace place_of_module(std::string_view name);

/// Relative error by layer and kind from the "modules" of a report; of several modules in one
/// place, the worst.
HeatMap error_map(const nlohmann::json& modules);

/// One row per module; columns that no module fills are left out.
std::string module_table(const nlohmann::json& modules);

/// Seconds and share of each of the "stages" of a report, with bars.
std::string stage_table(const nlohmann::json& stages);

/// Milliseconds of each stage by layer, from the "layers" of a report; empty where there are none.
std::string layer_table(const nlohmann::json& layers);

}  // namespace quern
