#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>

#include "pipeline/config/yaml_tree.h"

namespace quern {

/// What a key accepts: read from YAML, said in words, and as JSON Schema.
class ValueType {
 public:
  virtual ~ValueType() = default;

  /// The value in its one canonical form: numbers in base units, choices by name, paths as text.
  /// Throws ConfigError with the place and `key` when the type does not accept it.
  virtual nlohmann::json read(const YamlNode& node, const std::string& key) const = 0;
  /// Completes "expected ...": "an integer from 2 to 8".
  virtual std::string expectation() const = 0;
  /// JSON Schema (draft 2020-12) of the value, without description and default.
  virtual nlohmann::json schema() const = 0;
};

using ValueTypePtr = std::shared_ptr<const ValueType>;

/// true or false; the other spellings of YAML 1.1 are refused.
ValueTypePtr boolean();

/// A decimal integer in [minimum, maximum].
ValueTypePtr integer(std::int64_t minimum, std::int64_t maximum);

/// -1, or a multiple of 32 from 32 to 1024.
ValueTypePtr group_size();

/// A decimal number in (above, maximum].
ValueTypePtr real(double above, double maximum);

/// A decimal number in [minimum, maximum].
ValueTypePtr real_from(double minimum, double maximum);

/// One of the names, which must outlive the type.
ValueTypePtr choice(std::span<const std::string_view> names);

/// Text that is not empty.
ValueTypePtr text();

/// A path as it is; '~' is refused because nothing expands it.
ValueTypePtr path();

/// A path or a list of paths, read as a list; an empty list is allowed.
ValueTypePtr paths();

/// A name or a list of names, read as a list; an empty list is allowed.
ValueTypePtr names();

/// One item or a list of items, read as a list; `noun` names several and must outlive the type.
ValueTypePtr list_of(ValueTypePtr item, std::string_view noun);

/// A regular expression for module names (see match_complaint).
ValueTypePtr pattern();

/// Bytes, as a number or "500MB", "5GB", "1GiB".
ValueTypePtr byte_size(std::int64_t minimum, std::int64_t maximum);

/// Seconds, as a number or "60s", "5min", "1h".
ValueTypePtr duration(std::int64_t minimum, std::int64_t maximum);

}  // namespace quern
