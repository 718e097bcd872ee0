#pragma once

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/core/error.h"
#include "pipeline/config/enum_names.h"

namespace quern {

/// Between a member of the config structs and its canonical JSON: enums by name, paths as text,
/// durations in seconds, null for an unset optional.
template <typename T>
nlohmann::json encode(const T& value) {
  if constexpr (std::is_enum_v<T>) {
    return name_of(value);
  } else {
    return value;
  }
}
inline nlohmann::json encode(const std::filesystem::path& value) {
  return value.string();
}
inline nlohmann::json encode(const std::chrono::seconds& value) {
  return value.count();
}
template <typename T>
nlohmann::json encode(const std::optional<T>& value) {
  return value ? encode(*value) : nlohmann::json();
}
template <typename T>
nlohmann::json encode(const std::vector<T>& values) {
  nlohmann::json list = nlohmann::json::array();
  for (const T& value : values) list.push_back(encode(value));
  return list;
}

template <typename T>
void decode(const nlohmann::json& json, T& value) {
  if constexpr (std::is_enum_v<T>) {
    const auto parsed = parse_name<T>(json.get<std::string>());
    ensure(parsed.has_value(), "a name that the key's type has checked");
    value = *parsed;
  } else {
    json.get_to(value);
  }
}
inline void decode(const nlohmann::json& json, std::filesystem::path& value) {
  value = json.get<std::string>();
}
inline void decode(const nlohmann::json& json, std::chrono::seconds& value) {
  value = std::chrono::seconds(json.get<std::int64_t>());
}
template <typename T>
void decode(const nlohmann::json& json, std::optional<T>& value) {
  value.reset();
  if (!json.is_null()) decode(json, value.emplace());
}
template <typename T>
void decode(const nlohmann::json& json, std::vector<T>& values) {
  values.clear();
  for (const nlohmann::json& item : json) decode(item, values.emplace_back());
}

}  // namespace quern
