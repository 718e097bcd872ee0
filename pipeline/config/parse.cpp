#include "pipeline/config/parse.h"

#include <fmt/format.h>

#include <algorithm>
#include <list>
#include <vector>

#include "pipeline/config/checks.h"
#include "pipeline/config/fields.h"
#include "pipeline/config/mapping.h"
#include "pipeline/config/suggest.h"

namespace quern {
namespace {

constexpr std::string_view kSetOption = "--set";

/// Texts that the places of a tree point into, at stable addresses.
using Origins = std::list<std::string>;

/// Puts the value of "key.path=value" into the tree, making the mappings on its way.
void apply_override(YamlNode& root, const std::string& override_text, Origins& origins) {
  const std::string& origin =
      origins.emplace_back(fmt::format("{} {}", kSetOption, in_quotes(override_text)));
  const std::size_t equals = override_text.find('=');
  const std::string path = override_text.substr(0, equals);
  const bool empty_part = path.empty() || path.starts_with('.') || path.ends_with('.') ||
                          path.find("..") != std::string::npos;
  if (equals == std::string::npos || empty_part) {
    fail({origin, 1, 1}, "", "not an override", "key.path=value", "write quantize.bits=3");
  }
  if (std::count(path.begin(), path.end(), '.') > 1) {
    fail({origin, 1, 1}, printable(path), "unknown key", "section.key", "set the whole key");
  }
  const std::string_view text = std::string_view(override_text).substr(equals + 1);
  YamlNode value = parse_yaml({text, origin, static_cast<int>(equals) + 2});
  if (value.kind == YamlNode::Kind::null) value.place = {origin, 1, static_cast<int>(equals) + 2};

  YamlNode* node = &root;
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('.', begin), path.size());
    const std::string key = path.substr(begin, end - begin);
    if (node->kind == YamlNode::Kind::null) node->kind = YamlNode::Kind::mapping;
    expect_mapping(*node, printable(path.substr(0, begin == 0 ? 0 : begin - 1)));
    const Place place{origin, 1, static_cast<int>(begin) + 1};
    if (node->find(key) == nullptr) {
      node->entries.push_back({key, place, {}});
      node->entries.back().value.place = place;
    }
    node = node->find(key);
    begin = end + 1;
  }
  *node = std::move(value);
}

void locate(const YamlNode& node, const std::string& path, Places& places) {
  places[path] = node.place;
  for (const YamlNode::Entry& entry : node.entries) {
    const std::string key = path.empty() ? entry.key : fmt::format("{}.{}", path, entry.key);
    locate(entry.value, key, places);
  }
  for (std::size_t i = 0; i < node.items.size(); ++i) {
    locate(node.items[i], fmt::format("{}[{}]", path, i), places);
  }
}

/// "it belongs to 'quantize'" for a key of another section.
std::string section_hint(std::string_view name) {
  for (const Field<RunFile>& field : run_file_fields()) {
    if (field.name() == name) return fmt::format("it belongs to '{}'", field.section());
  }
  return {};
}

void check_sections(const YamlNode& root) {
  const auto sections = run_file_sections();
  std::vector<std::string_view> names;
  for (const Section& section : sections) names.push_back(section.name);
  for (const YamlNode::Entry& entry : root.entries) {
    if (std::find(names.begin(), names.end(), entry.key) != names.end()) continue;
    std::string advice = section_hint(entry.key);
    if (advice.empty()) advice = did_you_mean(entry.key, names);
    fail(entry.place, printable(entry.key), "unknown key",
         fmt::format("one of {}", joined(names, ", ")), advice.empty() ? "remove it" : advice);
  }
}

RunFile read_sections(const YamlNode& root) {
  RunFile run;
  for (const Section& section : run_file_sections()) {
    const std::string name(section.name);
    const YamlNode* node = root.find(name);
    std::vector<MappingKey> keys;
    for (const Field<RunFile>& field : run_file_fields()) {
      if (field.section() != name) continue;
      if (node == nullptr && field.need == Need::always) {
        fail(root.place, field.key, "missing", field.type->expectation(),
             fmt::format("add '{}: {{{}: ...}}'", name, field.name()));
      }
      keys.push_back({field.name(), field.type.get(), field.need != Need::optional});
    }
    if (node == nullptr) continue;
    const nlohmann::json values = read_mapping(*node, name, keys, section_hint);
    for (const Field<RunFile>& field : run_file_fields()) {
      const std::string key(field.name());
      if (field.section() == name && values.contains(key)) field.assign(run, values[key]);
    }
  }
  return run;
}

std::string origin_of(const Place& place) {
  if (place.origin.starts_with("--set ")) return std::string(kSetOption);
  return fmt::format("{}:{}", place.origin, place.line);
}

std::map<std::string, std::string> origins_of(const RunFile& run, const Places& places) {
  std::map<std::string, std::string> origin;
  const auto note = [&](const std::string& key) {
    const auto place = places.find(key);
    origin[key] = place == places.end() ? "default" : origin_of(place->second);
  };
  for (const Field<RunFile>& field : run_file_fields()) note(std::string(field.key));
  for (std::size_t i = 0; i < run.quantize.rules.size(); ++i) {
    note(fmt::format("quantize.rules[{}]", i));
  }
  return origin;
}

}  // namespace

ParsedRunFile parse_run_file(std::string_view text, std::string_view origin,
                             std::span<const std::string> overrides) {
  YamlNode root = parse_yaml({text, origin, 1});
  if (root.kind == YamlNode::Kind::null) {
    root.place = {origin, 1, 1};
    if (overrides.empty()) {
      fail(root.place, "", "the run file is empty", "sections model, calibration, quantize, ...",
           "copy one from configs/");
    }
  }
  Origins origins;
  for (const std::string& override_text : overrides) apply_override(root, override_text, origins);
  if (root.kind != YamlNode::Kind::mapping) {
    fail(root.place, "", fmt::format("the run file is {}", root.description()),
         "sections model, calibration, quantize, ...", "copy one from configs/");
  }
  check_sections(root);
  ParsedRunFile parsed;
  parsed.run = read_sections(root);
  Places places;
  locate(root, "", places);
  check_together(parsed.run, places);
  parsed.origin = origins_of(parsed.run, places);
  return parsed;
}

}  // namespace quern
