#include "pipeline/model/config_reader.h"

#include <fmt/format.h>

#include <utility>

#include "kernels/core/error.h"

namespace quern {
namespace {

const nlohmann::json kNull;

}  // namespace

ConfigReader::ConfigReader(const nlohmann::json& object, std::string origin)
    : object_(object), origin_(std::move(origin)) {
  if (!object.is_object()) {
    throw InputError(
        fmt::format("{}: expected a JSON object, found {}", origin_, object.type_name()));
  }
}

const nlohmann::json& ConfigReader::raw(const std::string& key) {
  read_.insert(key);
  const auto found = object_.find(key);
  return found == object_.end() ? kNull : *found;
}

bool ConfigReader::has(const std::string& key) {
  return !raw(key).is_null();
}

std::int64_t ConfigReader::integer(const std::string& key, std::int64_t low, std::int64_t high) {
  const nlohmann::json& value = raw(key);
  const std::string expected = fmt::format("a whole number from {} to {}", low, high);
  if (!value.is_number_integer()) fail(key, expected);
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX) fail(key, expected);
  const auto number = value.get<std::int64_t>();
  if (number < low || number > high) fail(key, expected);
  return number;
}

std::int64_t ConfigReader::integer_or(const std::string& key, std::int64_t fallback,
                                      std::int64_t low, std::int64_t high) {
  return has(key) ? integer(key, low, high) : fallback;
}

double ConfigReader::number_or(const std::string& key, double fallback, double low, double high) {
  const nlohmann::json& value = raw(key);
  if (value.is_null()) return fallback;
  const std::string expected = fmt::format("a number from {:g} to {:g}", low, high);
  if (!value.is_number()) fail(key, expected);
  const auto number = value.get<double>();
  if (!(number >= low && number <= high)) fail(key, expected);
  return number;
}

bool ConfigReader::boolean_or(const std::string& key, bool fallback) {
  const nlohmann::json& value = raw(key);
  if (value.is_null()) return fallback;
  if (!value.is_boolean()) fail(key, "true or false");
  return value.get<bool>();
}

std::string ConfigReader::text_or(const std::string& key, std::string_view fallback) {
  const nlohmann::json& value = raw(key);
  if (value.is_null()) return std::string(fallback);
  if (!value.is_string()) fail(key, "a string");
  return value.get<std::string>();
}

void ConfigReader::require(const std::string& key, const nlohmann::json& neutral) {
  const nlohmann::json& value = raw(key);
  if (!value.is_null() && value != neutral) {
    fail(key, fmt::format("{} (any other value changes the computation in a way that is not "
                          "supported)",
                          neutral.dump()));
  }
}

void ConfigReader::ignore(std::span<const std::string_view> keys) {
  for (const std::string_view key : keys) read_.emplace(key);
}

void ConfigReader::refuse_unread() const {
  for (const auto& [key, value] : object_.items()) {
    if (key.starts_with('_') || value.is_null() || read_.contains(key)) continue;
    throw InputError(fmt::format(
        "{}: field '{}' = {} is not known and might change the computation; if it does not, "
        "add it to model.ignore_fields in the run file",
        origin_, key, value.dump().substr(0, 80)));
  }
}

void ConfigReader::fail(const std::string& key, const std::string& expected) const {
  const auto found = object_.find(key);
  const std::string what = found == object_.end() || found->is_null()
                               ? "is missing"
                               : "is " + found->dump().substr(0, 80);
  throw InputError(fmt::format("{}: field '{}' {}; expected {}", origin_, key, what, expected));
}

}  // namespace quern
