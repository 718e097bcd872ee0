#include "pipeline/config/yaml_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>

namespace quern {
namespace {

constexpr std::size_t kMaxBytes = std::size_t{1} << 20U;

/// Bytes of the UTF-8 character at the start of `text` (RFC 3629); 0 if there is none.
std::size_t utf8_character(std::string_view text) noexcept {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || text.size() < length) return 0;
  std::uint32_t code = first & (0x7FU >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0U) != 0x80U) return 0;
    code = (code << 6U) | (byte(i) & 0x3FU);
  }
  const bool overlong = (length == 3 && code < 0x800) || (length == 4 && code < 0x10000);
  const bool surrogate = code >= 0xD800 && code <= 0xDFFF;
  return overlong || surrogate || code > 0x10FFFF ? 0 : length;
}

bool is_control(char c) noexcept {
  const auto byte = static_cast<unsigned char>(c);
  return (byte < 0x20 && c != '\t' && c != '\n' && c != '\r') || byte == 0x7F;
}

void check_characters(const YamlSource& source) {
  Place place{source.origin, 1, source.first_column};
  for (std::size_t at = 0; at < source.text.size();) {
    const std::size_t length = utf8_character(source.text.substr(at));
    const auto shown = static_cast<unsigned>(static_cast<unsigned char>(source.text[at]));
    if (length == 0) {
      fail(place, "", fmt::format("byte 0x{:02x} is not UTF-8", shown), "UTF-8 text",
           "save the file as UTF-8");
    }
    if (is_control(source.text[at])) {
      fail(place, "", fmt::format("control character 0x{:02x}", shown), "text",
           "remove the character");
    }
    const bool ends_line = source.text[at] == '\n';
    place.line += ends_line ? 1 : 0;
    place.column = ends_line ? 1 : place.column + static_cast<int>(length);
    at += length;
  }
}

void check_indentation(const YamlSource& source) {
  int line = 1;
  for (std::string_view rest = source.text; !rest.empty(); ++line) {
    const std::string_view text = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(text.size() + 1, rest.size()));
    const std::size_t content = std::min(text.find_first_not_of(" \t\r"), text.size());
    const std::size_t tab = text.substr(0, content).find('\t');
    if (tab == std::string_view::npos || content == text.size()) continue;
    fail({source.origin, line, static_cast<int>(tab) + (line == 1 ? source.first_column : 1)}, "",
         "a tab in the indentation", "spaces", "replace the tab by spaces");
  }
}

}  // namespace

void check_yaml_text(const YamlSource& source) {
  if (source.text.size() > kMaxBytes) {
    fail({source.origin, 1, 1}, "", fmt::format("the text has {} bytes", source.text.size()),
         fmt::format("at most {}", kMaxBytes), "check that this is a run file");
  }
  check_characters(source);
  check_indentation(source);
}

}  // namespace quern
