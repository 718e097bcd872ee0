#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "pipeline/config/parse.h"

namespace quern {

/// Every key with its value, defaults included, as {section: {key: value}}. Sizes in bytes,
/// durations in seconds, choices by name; keys that are not set and have no default are left out.
nlohmann::json resolved_json(const RunFile& run);

/// The same as a run file, each value with where it comes from; parses to the same values.
std::string resolved_text(const ParsedRunFile& parsed);

/// What decides the bytes of statistics and codes, as in resolved_json: calibration without its
/// sources (the tokens are hashed instead) and the keys of quantize that have an effect on the
/// method. Two runs with the same model, tokens and
/// identity give the same codes.
nlohmann::json identity_json(const RunFile& run);

}  // namespace quern
