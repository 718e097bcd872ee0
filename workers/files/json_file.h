#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>

namespace quern {

/// RFC 8259 JSON, strictly: no duplicate keys, no trailing text, valid UTF-8, depth up to 64.
/// Throws InputError "<origin>:<line>:<column>: ..." (columns in bytes, from 1) naming the key
/// where there is one.
nlohmann::json parse_json(std::string_view text, std::string_view origin);

/// parse_json of a file.
nlohmann::json read_json_file(const std::filesystem::path& path);

}  // namespace quern
