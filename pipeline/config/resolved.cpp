#include "pipeline/config/resolved.h"

#include <fmt/format.h>

#include <algorithm>

#include "pipeline/config/fields.h"
#include "pipeline/config/nested_fields.h"

namespace quern {
namespace {

using nlohmann::json;

constexpr std::size_t kCommentColumn = 44;

/// YAML of a scalar or a flat list or mapping, in flow style. JSON strings are YAML strings.
std::string flow(const json& value) {
  if (value.is_array() || value.is_object()) {
    std::string text;
    for (const auto& [key, item] : value.items()) {
      if (!text.empty()) text += ", ";
      text += value.is_object() ? fmt::format("{}: {}", key, flow(item)) : flow(item);
    }
    return value.is_array() ? fmt::format("[{}]", text) : fmt::format("{{{}}}", text);
  }
  return value.dump();
}

/// In the order of the table, so that `match` of a rule comes first.
template <typename Owner>
std::string entry_flow(const Owner& owner, const std::vector<Field<Owner>>& fields) {
  std::string text;
  for (const Field<Owner>& field : fields) {
    const json value = field.value(owner);
    if (value.is_null()) continue;
    text += fmt::format("{}{}: {}", text.empty() ? "" : ", ", field.key, flow(value));
  }
  return fmt::format("{{{}}}", text);
}

std::string line(const std::string& text, const std::string& origin) {
  return fmt::format("{:<{}} # {}\n", text, kCommentColumn, printable(origin));
}

std::string field_lines(const ParsedRunFile& parsed, const Field<RunFile>& field) {
  const std::string key(field.key);
  const auto& rules = parsed.run.quantize.rules;
  const json value = field.value(parsed.run);
  if (value.is_null()) return {};
  if (key != "quantize.rules" || rules.empty()) {
    return line(fmt::format("  {}: {}", field.name(), flow(value)), parsed.origin.at(key));
  }
  std::string text = line(fmt::format("  {}:", field.name()), parsed.origin.at(key));
  for (std::size_t i = 0; i < rules.size(); ++i) {
    text += line(fmt::format("    - {}", entry_flow(rules[i], rule_fields())),
                 parsed.origin.at(fmt::format("{}[{}]", key, i)));
  }
  return text;
}

json json_of(const RunFile& run, bool identity_only) {
  json all = json::object();
  for (const Field<RunFile>& field : run_file_fields()) {
    const bool decides = field.identity && field.methods.contains(run.quantize.method);
    if (identity_only && !decides) continue;
    const json value = field.value(run);
    if (!value.is_null()) all[std::string(field.section())][std::string(field.name())] = value;
  }
  return all;
}

}  // namespace

json resolved_json(const RunFile& run) {
  return json_of(run, false);
}

json identity_json(const RunFile& run) {
  return json_of(run, true);
}

std::string resolved_text(const ParsedRunFile& parsed) {
  std::string text;
  for (const Section& section : run_file_sections()) {
    std::string lines;
    for (const Field<RunFile>& field : run_file_fields()) {
      if (field.section() == section.name) lines += field_lines(parsed, field);
    }
    if (!lines.empty()) text += fmt::format("{}:\n{}", section.name, lines);
  }
  return text;
}

}  // namespace quern
