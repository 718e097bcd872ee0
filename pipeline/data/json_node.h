#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace quern {

/// A value inside a parsed JSON file that knows its place, so that every refusal names the file
/// and the path. Refers to the parsed value, which must outlive it. All checks throw InputError.
class JsonNode {
 public:
  JsonNode(const nlohmann::json& value, std::string file)
      : value_(&value), file_(std::make_shared<const std::string>(std::move(file))) {}

  /// A member that must exist.
  JsonNode at(std::string_view key) const;
  /// A member that may be absent; null counts as absent.
  std::optional<JsonNode> find(std::string_view key) const;
  /// An element of an array.
  JsonNode at(std::size_t index) const;
  /// Elements of an array or object.
  std::size_t size() const noexcept { return value_->size(); }

  const std::string& string() const;
  std::int64_t integer() const;
  bool boolean() const;
  bool boolean(std::string_view key, bool absent) const;
  void require_array() const;
  void require_object() const;

  /// Refuses an object with a member that is neither in `known` nor null: what a field of unknown
  /// meaning does to the tokens cannot be guessed.
  void allow_only(std::initializer_list<std::string_view> known) const;

  /// Throws InputError "<file>: <path>: <reason>".
  [[noreturn]] void refuse(std::string_view reason) const;

  const nlohmann::json& value() const noexcept { return *value_; }

 private:
  JsonNode(const nlohmann::json& value, std::shared_ptr<const std::string> file, std::string path)
      : value_(&value), file_(std::move(file)), path_(std::move(path)) {}

  const nlohmann::json* value_;
  std::shared_ptr<const std::string> file_;
  std::string path_;
};

}  // namespace quern
