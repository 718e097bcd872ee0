#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace quern {

/// Where a value stands: lines and columns (bytes) count from 1.
struct Place {
  std::string_view origin;
  int line = 1;
  int column = 1;
};

/// Throws ConfigError "<origin>:<line>:<column>: <key>: <what>; expected <expected>; <advice>".
/// Empty parts are left out.
[[noreturn]] void fail(const Place& place, std::string_view key, std::string_view what,
                       std::string_view expected, std::string_view advice);

/// `text` fit for one line of a message: cut at 60 bytes, control characters as '?'.
std::string printable(std::string_view text);
/// printable(text) in quotes.
std::string in_quotes(std::string_view text);

/// A YAML value without anchors, tags or duplicate keys.
struct YamlNode {
  enum class Kind : std::uint8_t { null, scalar, sequence, mapping };
  struct Entry;

  Kind kind = Kind::null;
  bool plain = false;  ///< a scalar without quotes
  Place place;
  std::string scalar;
  std::vector<YamlNode> items;
  std::vector<Entry> entries;

  /// The value of `key` in a mapping; nullptr if absent.
  const YamlNode* find(std::string_view key) const noexcept;
  YamlNode* find(std::string_view key) noexcept;
  /// "a mapping", "a list", "empty", or the scalar in quotes.
  std::string description() const;
};

struct YamlNode::Entry {
  std::string key;
  Place place;
  YamlNode value;
};

/// One YAML text and how its places are named.
struct YamlSource {
  std::string_view text;
  std::string_view origin;  ///< must outlive the tree
  int first_column = 1;     ///< of the first line, where the text is cut out of a longer one
};

/// The single document of a text of at most 1 MiB, nested at most 32 deep; null if it holds none.
/// Refuses, by ConfigError: bytes that are not UTF-8, control characters, tabs in indentation,
/// anchors, aliases, merge keys, tags, duplicate keys, keys that are not scalars, and a second
/// document.
YamlNode parse_yaml(const YamlSource& source);

}  // namespace quern
