#include "pipeline/data/pattern_syntax.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>

#include "kernels/core/error.h"
#include "pipeline/data/utf8.h"

namespace quern {
namespace {

constexpr auto kCategories = std::to_array<std::string_view>(
    {"C",  "Cc", "Cf", "Cn", "Co", "Cs", "L",  "Ll", "Lm", "Lo", "Lt", "Lu", "M",
     "Mc", "Me", "Mn", "N",  "Nd", "Nl", "No", "P",  "Pc", "Pd", "Pe", "Pf", "Pi",
     "Po", "Ps", "S",  "Sc", "Sk", "Sm", "So", "Z",  "Zl", "Zp", "Zs"});

constexpr auto kScripts = std::to_array<std::string_view>(
    {"Arabic",  "Armenian", "Bengali",  "Bopomofo", "Cyrillic", "Devanagari", "Georgian",
     "Greek",   "Gujarati", "Gurmukhi", "Han",      "Hangul",   "Hebrew",     "Hiragana",
     "Kannada", "Katakana", "Khmer",    "Lao",      "Latin",    "Malayalam",  "Mongolian",
     "Myanmar", "Sinhala",  "Tamil",    "Telugu",   "Thai",     "Tibetan"});

/// Pairs of letters that Oniguruma, ignoring case, also finds in one character (a ligature).
constexpr auto kFoldedPairs = std::to_array<std::string_view>({"ss", "st", "ff", "fi", "fl"});

/// Properties that both know by the same name and members.
constexpr auto kProperties =
    std::to_array<std::string_view>({"Alphabetic", "Join_Control", "White_Space"});

/// Oniguruma counts six superscripts and fractions of Latin-1 as word characters.
constexpr std::string_view kWord =
    R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{b2}\x{b3}\x{b9}\x{bc}-\x{be})";

constexpr auto kGroups =
    std::to_array<std::string_view>({"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>"});

bool is_hex(char c) {
  return std::isxdigit(static_cast<unsigned char>(c)) != 0;
}

class Translation {
 public:
  explicit Translation(std::string_view source) : source_(source) {}

  std::string run() {
    require_utf8(source_, "a regular expression");
    if (source_.empty()) refuse("an empty expression");
    while (at_ < source_.size()) element();
    return std::move(out_);
  }

 private:
  void element();
  void group();
  void caseless_group();
  void escape(bool in_class);
  void property();
  void code_point();
  void character_class();
  void quantifier();
  void braces();

  bool ahead(std::string_view text) const { return source_.substr(at_).starts_with(text); }
  void copy(std::size_t bytes) {
    out_ += source_.substr(at_, bytes);
    at_ += bytes;
  }
  void replace(std::size_t bytes, std::string_view text) {
    out_ += text;
    at_ += bytes;
  }
  [[noreturn]] void refuse(std::string_view what) const {
    throw InputError(fmt::format(
        "the regular expression {} uses {} at byte {}, which this program does not support",
        source_, what, at_));
  }

  std::string_view source_;
  std::size_t at_ = 0;
  std::string out_;
  bool repeated_ = false;  ///< the element just read was a quantifier
};

void Translation::element() {
  const char c = source_[at_];
  if (c == '*' || c == '+' || c == '?' || c == '{') return quantifier();
  repeated_ = false;
  switch (c) {
    case '(':
      return group();
    case '[':
      return character_class();
    case '\\':
      return escape(false);
    case '^':
    case '$':
      refuse(fmt::format("the anchor {}", c));
    case '\0':
      refuse("a zero byte");
    default:
      copy(utf8_bytes(c));
  }
}

void Translation::group() {
  if (ahead("(?i:")) return caseless_group();
  for (const std::string_view opening : kGroups) {
    if (ahead(opening)) return copy(opening.size());
  }
  if (ahead("(?") || ahead("(*")) refuse("a group of unknown kind");
  copy(1);
}

void Translation::caseless_group() {
  const std::size_t end = source_.find(')', at_);
  if (end == std::string_view::npos) refuse("an unclosed group");
  std::string body(source_.substr(at_ + 4, end - at_ - 4));
  for (char& c : body) {
    if (std::isalpha(static_cast<unsigned char>(c)) == 0 && c != '\'' && c != '|' && c != '[' &&
        c != ']') {
      refuse(fmt::format("\"{}\" in a group that ignores case", c));
    }
    c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  for (const std::string_view pair : kFoldedPairs) {
    if (body.find(pair) != std::string::npos) {
      refuse(fmt::format("the letters {} in a group that ignores case", pair));
    }
  }
  copy(end + 1 - at_);
}

void Translation::escape(bool in_class) {
  if (at_ + 1 >= source_.size()) refuse("a lone backslash");
  const char c = source_[at_ + 1];
  switch (c) {
    case 's':
      return replace(2, R"(\p{White_Space})");
    case 'S':
      return replace(2, R"(\P{White_Space})");
    case 'w':
      return replace(2, in_class ? std::string(kWord) : fmt::format("[{}]", kWord));
    case 'W':
      if (in_class) refuse("\\W in a character class");
      return replace(2, fmt::format("[^{}]", kWord));
    case 'v':
      return replace(2, R"(\x0b)");
    case 'p':
    case 'P':
      return property();
    case 'x':
    case 'u':
      return code_point();
    case 'd':
      return replace(2, R"(\p{Nd})");
    case 'D':
      return replace(2, R"(\P{Nd})");
    case 't':
    case 'n':
    case 'r':
    case 'f':
    case 'a':
    case 'e':
      return copy(2);
    default:
      if (std::ispunct(static_cast<unsigned char>(c)) == 0 && c != ' ') {
        refuse(fmt::format("\\{}", source_.substr(at_ + 1, utf8_bytes(c))));
      }
      copy(2);
  }
}

void Translation::property() {
  const std::size_t end = source_.find('}', at_);
  if (!source_.substr(at_ + 2).starts_with('{') || end == std::string_view::npos) {
    refuse("a property without braces");
  }
  std::string_view name = source_.substr(at_ + 3, end - at_ - 3);
  bool inverted = source_[at_ + 1] == 'P';
  if (name.starts_with('^')) {
    inverted = !inverted;
    name.remove_prefix(1);
  }
  const std::string_view letter = inverted ? R"(\P)" : R"(\p)";
  if (std::ranges::find(kCategories, name) != kCategories.end() ||
      std::ranges::find(kProperties, name) != kProperties.end()) {
    replace(end + 1 - at_, fmt::format("{}{{{}}}", letter, name));
  } else if (std::ranges::find(kScripts, name) != kScripts.end()) {
    replace(end + 1 - at_, fmt::format("{}{{sc:{}}}", letter, name));
  } else {
    refuse(fmt::format("the property {}", source_.substr(at_, end + 1 - at_)));
  }
}

void Translation::code_point() {
  std::size_t begin = at_ + 2;
  std::size_t end = begin;
  const bool braced = source_[at_ + 1] == 'x' && begin < source_.size() && source_[begin] == '{';
  const std::size_t most = braced ? 8 : source_[at_ + 1] == 'u' ? 4 : 2;
  if (braced) end = ++begin;
  while (end < source_.size() && end - begin < most && is_hex(source_[end])) ++end;
  const std::string digits(source_.substr(begin, end - begin));
  // A bare \xHH is one byte to Oniguruma, so only ASCII means a character.
  const bool short_of = digits.size() != most && !braced;
  if (digits.empty() || short_of || (most == 2 && digits[0] > '7'))
    refuse("a malformed \\x or \\u");
  if (braced && (end >= source_.size() || source_[end] != '}')) refuse("an unclosed \\x{");
  replace(end + (braced ? 1 : 0) - at_, fmt::format("\\x{{{}}}", digits));
}

void Translation::character_class() {
  copy(ahead("[^") ? 2 : 1);
  if (ahead("]")) refuse("a class that is empty or starts with ]");
  while (at_ < source_.size() && source_[at_] != ']') {
    if (source_[at_] == '[') refuse("a nested or POSIX class");
    if (ahead("&&")) refuse("the intersection && of classes");
    if (source_[at_] == '\\') {
      escape(true);
    } else {
      copy(utf8_bytes(source_[at_]));
    }
  }
  if (at_ == source_.size()) refuse("an unclosed class");
  copy(1);
}

void Translation::quantifier() {
  if (repeated_) refuse("a repeat of a repeat");
  repeated_ = true;
  if (source_[at_] == '{') return braces();
  copy(1);
  if (ahead("?") || ahead("+")) copy(1);
}

void Translation::braces() {
  const std::size_t end = source_.find('}', at_);
  const std::string_view body =
      end == std::string_view::npos ? "" : source_.substr(at_ + 1, end - at_ - 1);
  const std::size_t comma = body.find(',');
  const auto is_number = [](std::string_view digits) {
    return digits.size() <= 5 &&
           std::ranges::all_of(digits, [](char c) { return c >= '0' && c <= '9'; });
  };
  const std::string_view low = body.substr(0, comma);
  const std::string_view high = comma == std::string_view::npos ? low : body.substr(comma + 1);
  if (!is_number(low) || !is_number(high) || (low.empty() && high.empty())) {
    refuse("a brace that is not a repeat; escape it");
  }
  const bool interval = comma != std::string_view::npos;
  replace(end + 1 - at_, interval ? fmt::format("{{{},{}}}", low.empty() ? "0" : low, high)
                                  : fmt::format("{{{}}}", low));
  if (ahead("+") || (ahead("?") && !interval)) refuse("a repeat of a repeat");
  if (ahead("?")) copy(1);
}

}  // namespace

std::string pcre2_from_oniguruma(std::string_view expression) {
  return Translation(expression).run();
}

}  // namespace quern
