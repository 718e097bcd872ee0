#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace quern {

/// JSON Schema (draft 2020-12) of the run file; configs/run.schema.json is its copy for editors.
nlohmann::json run_file_schema();

/// Every key with what it accepts, its default and its description, for people.
std::string key_listing();

}  // namespace quern
