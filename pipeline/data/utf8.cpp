#include "pipeline/data/utf8.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <array>
#include <bit>

#include "kernels/core/error.h"

namespace quern {

std::optional<std::size_t> invalid_utf8_offset(std::string_view text) noexcept {
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  std::size_t position = 0;
  while (position < text.size()) {
    if (bytes[position] < 0x80) {
      ++position;
      continue;
    }
    utf8proc_int32_t character = 0;
    const auto rest = static_cast<utf8proc_ssize_t>(text.size() - position);
    const utf8proc_ssize_t length = utf8proc_iterate(bytes + position, rest, &character);
    if (length <= 0) return position;
    position += static_cast<std::size_t>(length);
  }
  return std::nullopt;
}

void require_utf8(std::string_view text, std::string_view origin) {
  if (const auto offset = invalid_utf8_offset(text)) {
    throw InputError(fmt::format(
        "{}: byte {} (0x{:02x}) is not valid UTF-8; convert the text to UTF-8 or leave it out",
        origin, *offset, static_cast<unsigned char>(text[*offset])));
  }
}

std::size_t utf8_prefix_bytes(std::string_view text, std::int64_t characters) noexcept {
  std::int64_t begun = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool begins = (static_cast<unsigned char>(text[i]) & 0xC0u) != 0x80u;
    if (begins && ++begun > characters) return i;
  }
  return text.size();
}

std::size_t utf8_bytes(char lead) noexcept {
  const int ones = std::countl_one(static_cast<unsigned char>(lead));
  return ones < 2 ? 1 : static_cast<std::size_t>(ones);
}

char32_t next_character(std::string_view text, std::size_t& position) noexcept {
  const std::size_t length = utf8_bytes(text[position]);
  if (length == 1) return static_cast<unsigned char>(text[position++]);
  char32_t character = static_cast<unsigned char>(text[position]) & (0x7Fu >> length);
  for (std::size_t i = 1; i < length; ++i) {
    character = (character << 6) | (static_cast<unsigned char>(text[position + i]) & 0x3Fu);
  }
  position += length;
  return character;
}

std::size_t last_character_begin(std::string_view text) noexcept {
  std::size_t begin = text.size() - 1;
  while ((static_cast<unsigned char>(text[begin]) & 0xC0u) == 0x80u) --begin;
  return begin;
}

void append_utf8(std::string& text, char32_t character) {
  std::array<utf8proc_uint8_t, 4> bytes{};
  const auto length = utf8proc_encode_char(static_cast<utf8proc_int32_t>(character), bytes.data());
  text.append(reinterpret_cast<const char*>(bytes.data()), static_cast<std::size_t>(length));
}

std::size_t take_characters(std::string_view text, std::int64_t& characters) noexcept {
  std::size_t position = 0;
  while (position < text.size() && characters > 0) {
    position += utf8_bytes(text[position]);
    --characters;
  }
  return position;
}

bool is_white_space(char32_t character) noexcept {
  if (character < 0x80) return character == ' ' || (character >= 0x09 && character <= 0x0D);
  return character == 0x85 || character == 0xA0 || character == 0x1680 ||
         (character >= 0x2000 && character <= 0x200A) || character == 0x2028 ||
         character == 0x2029 || character == 0x202F || character == 0x205F || character == 0x3000;
}

std::size_t leading_white_space(std::string_view text) noexcept {
  std::size_t position = 0;
  while (position < text.size()) {
    std::size_t next = position;
    if (!is_white_space(next_character(text, next))) break;
    position = next;
  }
  return position;
}

std::size_t trailing_white_space(std::string_view text) noexcept {
  std::size_t end = text.size();
  while (end > 0) {
    const std::size_t begin = last_character_begin(text.substr(0, end));
    std::size_t position = begin;
    if (!is_white_space(next_character(text, position))) break;
    end = begin;
  }
  return text.size() - end;
}

}  // namespace quern
