#include "pipeline/data/normalizer.h"

#include <utf8proc.h>

#include <array>
#include <cstdlib>
#include <memory>

#include "kernels/core/error.h"

namespace quern {
namespace {

constexpr char32_t kCapitalIWithDot = 0x130;  // the only lower case of two characters

bool prints_as_itself(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

std::array<std::string, 256> make_byte_characters() {
  std::array<std::string, 256> characters;
  char32_t next = 256;
  for (unsigned byte = 0; byte < 256; ++byte) {
    append_utf8(characters[byte], prints_as_itself(byte) ? byte : next++);
  }
  return characters;
}

struct Free {
  void operator()(utf8proc_uint8_t* memory) const noexcept { std::free(memory); }
};

std::string unicode_form(const std::string& text, UnicodeForm form) {
  unsigned options = UTF8PROC_STABLE;
  options |= form.compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form.compatibility) options |= UTF8PROC_COMPAT;
  utf8proc_uint8_t* result = nullptr;
  const auto length = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                   static_cast<utf8proc_ssize_t>(text.size()), &result,
                                   static_cast<utf8proc_option_t>(options));
  const std::unique_ptr<utf8proc_uint8_t, Free> owner(result);
  if (length < 0) throw MemoryError("no memory to normalise a text of the tokenizer's input");
  return {reinterpret_cast<const char*>(result), static_cast<std::size_t>(length)};
}

std::string lower_case(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const char32_t c = next_character(text, at);
    if (c == kCapitalIWithDot) {
      out += "i\u0307";
    } else {
      append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
    }
  }
  return out;
}

std::string run(const PrependText& step, std::string text) {
  return text.empty() ? text : step.text + text;
}
std::string run(const ReplaceMatches& step, std::string text) {
  return replace_matches(text, step.pattern, step.content);
}
std::string run(const UnicodeForm& step, std::string text) {
  return unicode_form(text, step);
}
std::string run(const LowerCase&, std::string text) {
  return lower_case(text);
}
std::string run(const StripWhiteSpace& step, std::string text) {
  std::string_view rest = text;
  if (step.left) rest.remove_prefix(leading_white_space(rest));
  if (step.right) rest.remove_suffix(trailing_white_space(rest));
  return std::string(rest);
}
std::string run(const BytesToCharacters&, std::string text) {
  return bytes_to_characters(text);
}

}  // namespace

std::string bytes_to_characters(std::string_view text) {
  static const std::array<std::string, 256> characters = make_byte_characters();
  std::string out;
  out.reserve(text.size() + text.size() / 4);
  for (const char c : text) out += characters[static_cast<unsigned char>(c)];
  return out;
}

std::string replace_matches(std::string_view text, const Pattern& pattern,
                            std::string_view content) {
  PatternMatcher matcher(pattern);
  std::string out;
  out.reserve(text.size());
  for (const PatternPiece& piece : matcher.pieces(text)) {
    out += piece.is_match ? content : piece.span.of(text);
  }
  return out;
}

std::string Normalizer::apply(std::string text) const {
  for (const NormalizerStep& step : steps_) {
    text = std::visit([&](const auto& one) { return run(one, std::move(text)); }, step);
  }
  return text;
}

}  // namespace quern
