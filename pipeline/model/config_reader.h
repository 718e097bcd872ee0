#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>

namespace quern {

/// Typed access to the fields of one JSON object that remembers which were asked for, so that what
/// nobody understood can be refused by name. Absent and null fields are the same but to contains().
class ConfigReader {
 public:
  ConfigReader(const nlohmann::json& object, std::string origin);

  bool has(const std::string& key);
  /// There, even if null.
  bool contains(const std::string& key) const { return object_.contains(key); }
  /// Throws InputError unless the field is a whole number in [low, high].
  std::int64_t integer(const std::string& key, std::int64_t low, std::int64_t high);
  std::int64_t integer_or(const std::string& key, std::int64_t fallback, std::int64_t low,
                          std::int64_t high);
  double number_or(const std::string& key, double fallback, double low, double high);
  bool boolean_or(const std::string& key, bool fallback);
  std::string text_or(const std::string& key, std::string_view fallback);
  /// Null json when absent.
  const nlohmann::json& raw(const std::string& key);

  /// Refuses the field unless it is absent or equal to `neutral`.
  void require(const std::string& key, const nlohmann::json& neutral);
  /// Marks fields as without effect on the computation.
  void ignore(std::span<const std::string_view> keys);
  /// Throws InputError naming the first field that was neither read nor ignored. Names that start
  /// with '_' never count.
  void refuse_unread() const;

  [[noreturn]] void fail(const std::string& key, const std::string& expected) const;
  const std::string& origin() const noexcept { return origin_; }

 private:
  const nlohmann::json& object_;
  std::string origin_;
  std::set<std::string> read_;
};

}  // namespace quern
