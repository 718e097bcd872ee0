#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>

#include "pipeline/config/values.h"

namespace quern {

struct MappingKey {
  std::string_view name;
  const ValueType* type;
  bool needed = false;
};

/// Reads the YAML mapping at key path `path` into a JSON object with the keys that are set.
/// Throws ConfigError for a key not listed, a needed one that is missing, and a value its type
/// refuses. `elsewhere` may say where an unknown key belongs; "" if it does not know.
nlohmann::json read_mapping(const YamlNode& node, const std::string& path,
                            std::span<const MappingKey> keys,
                            std::string (*elsewhere)(std::string_view key));

/// Throws ConfigError unless `node` is a mapping.
void expect_mapping(const YamlNode& node, const std::string& path);

}  // namespace quern
