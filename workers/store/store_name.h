#pragma once

#include <string_view>

namespace quern {

/// True for a relative name with '/' separators that stays below its root and fits a journal line:
/// no empty, "." or ".." part, no blank, no control character, and not "-".
inline bool is_store_name(std::string_view name) noexcept {
  if (name == "-") return false;
  for (const char letter : name) {
    if (static_cast<unsigned char>(letter) <= ' ' || letter == '\x7f') return false;
  }
  while (true) {
    const std::size_t cut = name.find('/');
    const std::string_view part = name.substr(0, cut);
    if (part.empty() || part == "." || part == "..") return false;
    if (cut == std::string_view::npos) return true;
    name.remove_prefix(cut + 1);
  }
}

}  // namespace quern
