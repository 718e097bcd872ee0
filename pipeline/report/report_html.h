#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace quern {

/// The report of a run as a self-contained page, readable on a phone and printed.
std::string report_html(const nlohmann::json& report);

}  // namespace quern
