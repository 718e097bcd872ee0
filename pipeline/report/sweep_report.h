#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace quern {

/// sweep.json as a self-contained page: all points in a table and in a picture of perplexity
/// against size, the errors and times of each. Readable on a phone and printed.
std::string sweep_html(const nlohmann::json& sweep);

/// The points as CSV (RFC 4180) with a head line; numbers in full precision, unknown ones empty.
std::string sweep_csv(const nlohmann::json& sweep);

}  // namespace quern
