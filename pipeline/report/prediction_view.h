#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace quern {

/// The totals of a report's "prediction" in one line, "time 30.1 s (+3 %), ...", or the reason why
/// there is nothing to compare; empty where nothing was predicted.
std::string prediction_line(const nlohmann::json& prediction);

/// The same with all stages, as a section of the page.
std::string prediction_section(const nlohmann::json& prediction);

}  // namespace quern
