#include "pipeline/config/mapping.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "pipeline/config/suggest.h"

namespace quern {
namespace {

std::vector<std::string_view> names_of(std::span<const MappingKey> keys) {
  std::vector<std::string_view> names;
  for (const MappingKey& key : keys) names.push_back(key.name);
  return names;
}

}  // namespace

void expect_mapping(const YamlNode& node, const std::string& path) {
  if (node.kind == YamlNode::Kind::mapping) return;
  fail(node.place, path, fmt::format("the value is {}", node.description()),
       "a mapping of keys to values", "indent 'key: value' lines below it, or remove it");
}

nlohmann::json read_mapping(const YamlNode& node, const std::string& path,
                            std::span<const MappingKey> keys,
                            std::string (*elsewhere)(std::string_view key)) {
  expect_mapping(node, path);
  nlohmann::json object = nlohmann::json::object();
  for (const YamlNode::Entry& entry : node.entries) {
    const std::string key_path = fmt::format("{}.{}", path, printable(entry.key));
    const auto key = std::find_if(keys.begin(), keys.end(), [&](const MappingKey& candidate) {
      return candidate.name == entry.key;
    });
    if (key == keys.end()) {
      std::string advice = did_you_mean(entry.key, names_of(keys));
      if (advice.empty()) advice = elsewhere(entry.key);
      fail(entry.place, key_path, "unknown key", fmt::format("a key of '{}'", path),
           advice.empty() ? "remove it" : advice);
    }
    object[entry.key] = key->type->read(entry.value, key_path);
  }
  for (const MappingKey& key : keys) {
    if (!key.needed || object.contains(key.name)) continue;
    fail(node.place, fmt::format("{}.{}", path, key.name), "missing", key.type->expectation(),
         fmt::format("add '{}:' to '{}'", key.name, path));
  }
  return object;
}

}  // namespace quern
