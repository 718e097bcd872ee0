#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace quern {

/// A stretch of bytes [begin, end) of some text.
struct Span {
  std::size_t begin = 0;
  std::size_t end = 0;

  bool empty() const noexcept { return begin == end; }
  std::string_view of(std::string_view text) const { return text.substr(begin, end - begin); }
};

/// Byte offset of the first byte that is not valid UTF-8; empty if all is valid.
std::optional<std::size_t> invalid_utf8_offset(std::string_view text) noexcept;

/// Throws InputError "<origin>: byte <offset> is not valid UTF-8 ..." unless the text is valid.
void require_utf8(std::string_view text, std::string_view origin);

/// Bytes of the prefix with `characters` characters, or all; counts the bytes that begin one, so
/// that text which is not valid is not split anywhere new.
std::size_t utf8_prefix_bytes(std::string_view text, std::int64_t characters) noexcept;

/// The functions below expect valid UTF-8.

/// Bytes of the character that starts with `lead`.
std::size_t utf8_bytes(char lead) noexcept;

/// The character at `position`, which moves behind it.
char32_t next_character(std::string_view text, std::size_t& position) noexcept;

/// Where the last character of a text begins, which must not be empty.
std::size_t last_character_begin(std::string_view text) noexcept;

void append_utf8(std::string& text, char32_t character);

/// Bytes of the longest prefix with at most `characters` characters; that count is lowered by the
/// characters in it.
std::size_t take_characters(std::string_view text, std::int64_t& characters) noexcept;

/// Unicode property White_Space.
bool is_white_space(char32_t character) noexcept;

/// Byte lengths of the white space at the start and at the end.
std::size_t leading_white_space(std::string_view text) noexcept;
std::size_t trailing_white_space(std::string_view text) noexcept;

}  // namespace quern
