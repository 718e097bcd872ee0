#include "tests/structure/source_text.h"

#include <algorithm>
#include <cctype>

namespace quern::test {
namespace {

bool is_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}

/// Sorts the characters of a file into code and comments, literal by literal.
class Separator {
 public:
  explicit Separator(std::string_view text) : text_(text), code_(text), comments_(text) {
    blank(comments_, 0, text.size());
  }

  void run() {
    while (at_ < text_.size()) {
      if (text_.substr(at_, 2) == "//") {
        take_comment(end_of_line_comment());
      } else if (text_.substr(at_, 2) == "/*") {
        take_comment(after("*/", at_ + 2));
      } else if (text_[at_] == '"') {
        take_literal(at_ > 0 && text_[at_ - 1] == 'R' ? raw_string_end() : quoted_end('"'));
      } else if (text_[at_] == '\'' && (at_ == 0 || !is_digit_separator())) {
        take_literal(quoted_end('\''));
      } else {
        ++at_;
      }
    }
  }

  std::string take_code() { return std::move(code_); }
  std::string take_comments() { return std::move(comments_); }

 private:
  static void blank(std::string& text, std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
      if (text[i] != '\n') text[i] = ' ';
    }
  }

  bool is_digit_separator() const {
    std::size_t begin = at_;
    while (begin > 0 && (is_word(text_[begin - 1]) || text_[begin - 1] == '\'')) --begin;
    return begin < at_ && std::isdigit(static_cast<unsigned char>(text_[begin])) != 0;
  }

  std::size_t after(std::string_view end, std::size_t from) const {
    const std::size_t found = text_.find(end, from);
    return found == std::string_view::npos ? text_.size() : found + end.size();
  }

  std::size_t end_of_line_comment() const {
    std::size_t end = text_.find('\n', at_);
    while (end != std::string_view::npos && text_[end - 1] == '\\') end = text_.find('\n', end + 1);
    return std::min(end, text_.size());
  }

  std::size_t quoted_end(char quote) const {
    for (std::size_t i = at_ + 1; i < text_.size(); ++i) {
      if (text_[i] == '\\') {
        ++i;
      } else if (text_[i] == quote || text_[i] == '\n') {
        return i + 1;
      }
    }
    return text_.size();
  }

  std::size_t raw_string_end() const {
    const std::size_t open = text_.find('(', at_);
    if (open == std::string_view::npos) return text_.size();
    std::string end(1, ')');
    end.append(text_.substr(at_ + 1, open - at_ - 1)).push_back('"');
    return after(end, open);
  }

  void take_comment(std::size_t end) {
    std::copy(text_.begin() + static_cast<std::ptrdiff_t>(at_),
              text_.begin() + static_cast<std::ptrdiff_t>(end),
              comments_.begin() + static_cast<std::ptrdiff_t>(at_));
    blank(code_, at_, end);
    at_ = end;
  }

  void take_literal(std::size_t end) {
    blank(code_, at_ + 1, std::max(at_ + 1, end - 1));
    at_ = end;
  }

  std::string_view text_;
  std::string code_;
  std::string comments_;
  std::size_t at_ = 0;
};

std::vector<Include> find_includes(std::string_view text, std::string_view code) {
  std::vector<Include> includes;
  int line = 1;
  for (std::size_t begin = 0; begin < code.size(); ++line) {
    const std::size_t end = std::min(code.find('\n', begin), code.size());
    std::size_t at = code.find_first_not_of(" \t", begin);
    if (at < end && code[at] == '#') {
      at = code.find_first_not_of(" \t", at + 1);
      const std::size_t open = text.find_first_of("<\"", at);
      if (at < end && code.substr(at, 7) == "include" && open < end) {
        const bool quoted = text[open] == '"';
        const std::size_t close = std::min(text.find(quoted ? '"' : '>', open + 1), end);
        includes.push_back({line, std::string(text.substr(open + 1, close - open - 1)), quoted});
      }
    }
    begin = end + 1;
  }
  return includes;
}

}  // namespace

SourceText parse_source(std::string_view text) {
  Separator separator(text);
  separator.run();
  SourceText source;
  source.code = separator.take_code();
  source.comments = separator.take_comments();
  source.includes = find_includes(text, source.code);
  source.length_lines = static_cast<int>(std::count(text.begin(), text.end(), '\n'));
  if (!text.empty() && text.back() != '\n') ++source.length_lines;
  return source;
}

int line_of(std::string_view text, std::size_t position) {
  const std::string_view before = text.substr(0, position);
  return 1 + static_cast<int>(std::count(before.begin(), before.end(), '\n'));
}

}  // namespace quern::test
