#include "pipeline/config/schema.h"

#include <fmt/format.h>

#include "pipeline/config/fields.h"

namespace quern {
namespace {

using nlohmann::json;

/// The default of a key; null for paths, which have none.
json default_of(const Field<RunFile>& field) {
  json value = field.value(RunFile{});
  const bool unset = value == "" || (field.need != Need::optional && value.empty());
  return unset ? json() : value;
}

json section_schema(const Section& section) {
  json properties = json::object();
  json required = json::array();
  for (const Field<RunFile>& field : run_file_fields()) {
    if (field.section() != section.name) continue;
    json& property = properties[std::string(field.name())];
    property = field.type->schema();
    property["description"] = field.description;
    if (const json usual = default_of(field); !usual.is_null()) property["default"] = usual;
    if (field.need != Need::optional) required.push_back(field.name());
  }
  json schema = {{"type", "object"},
                 {"description", section.description},
                 {"properties", properties},
                 {"additionalProperties", false}};
  if (!required.empty()) schema["required"] = required;
  return schema;
}

}  // namespace

json run_file_schema() {
  json properties = json::object();
  for (const Section& section : run_file_sections()) {
    properties[std::string(section.name)] = section_schema(section);
  }
  json required = json::array();
  for (const Field<RunFile>& field : run_file_fields()) {
    if (field.need == Need::always) required.push_back(field.section());
  }
  const json rounds_to_nearest = json::parse(R"({
    "properties": {"quantize": {"properties": {"method": {"const": "rtn"}}, "required": ["method"]}},
    "required": ["quantize"]})");
  const json sweeps = {{"required", {"sweep"}}};
  return {{"$schema", "https://json-schema.org/draft/2020-12/schema"},
          {"title", "Quern run file"},
          {"type", "object"},
          {"properties", properties},
          {"required", required},
          {"additionalProperties", false},
          {"if", {{"anyOf", {rounds_to_nearest, sweeps}}}},
          {"else", {{"required", {"calibration"}}}}};
}

std::string key_listing() {
  std::string text;
  for (const Section& section : run_file_sections()) {
    text += fmt::format("{}: {}\n", section.name, section.description);
    for (const Field<RunFile>& field : run_file_fields()) {
      if (field.section() != section.name) continue;
      const json usual = default_of(field);
      text += fmt::format(
          "  {}\n      {}\n      {}{}{}\n", field.key, field.description, field.type->expectation(),
          usual.is_null() ? "" : fmt::format("; default {}", usual.dump()),
          field.methods.holds_all() ? "" : fmt::format("; only of {}", field.methods.names()));
    }
  }
  return text;
}

}  // namespace quern
