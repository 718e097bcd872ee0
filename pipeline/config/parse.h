#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>

#include "pipeline/config/run_config.h"

namespace quern {

struct ParsedRunFile {
  RunFile run;
  /// Per key path ("quantize.bits", "quantize.rules[0]"): "run.yaml:12", "--set" or "default".
  std::map<std::string, std::string> origin;
};

/// Parses a run file; touches no file. `origin` names the text in messages. `overrides` are
/// "key.path=value" with a YAML value; each replaces what the text or an earlier one sets.
/// Every value is checked for type and range, and against the others. Throws ConfigError
/// "<origin>:<line>:<column>: <key.path>: <what>; expected <...>; <what to do>" at the first
/// mistake; the place of an override is its column in the argument.
ParsedRunFile parse_run_file(std::string_view text, std::string_view origin,
                             std::span<const std::string> overrides);

}  // namespace quern
