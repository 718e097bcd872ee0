#pragma once

#include <string>
#include <string_view>

#include "pipeline/config/run_config.h"

namespace quern {

/// What the run file asks for one module.
struct ModuleSettings {
  bool skip = false;  ///< leave the weights as they are; the grid has no meaning
  GridSpec grid;

  bool operator==(const ModuleSettings&) const = default;
};

/// The first rule that matches the whole module name (without ".weight"), over the defaults of
/// `quantize`. Throws InputError for a name of more than 512 bytes.
ModuleSettings settings_for(const QuantizeConfig& quantize, std::string_view module_name);

/// Why `match` cannot be used as the expression of a rule; empty if it can. Accepts ECMAScript
/// expressions of at most 512 bytes without the usual ways for matching to take forever: more than
/// 6 repetitions, or a repetition of a group that itself repeats or has alternatives.
std::string match_complaint(const std::string& match);

}  // namespace quern
