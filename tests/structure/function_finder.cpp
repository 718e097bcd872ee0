#include <algorithm>
#include <array>
#include <cctype>

#include "tests/structure/source_text.h"

namespace quern::test {
namespace {

struct Token {
  std::string_view text;  ///< a word, or one character of punctuation
  int line = 0;
};

bool is_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}

std::size_t end_of_directive(std::string_view code, std::size_t at) {
  std::size_t end = code.find('\n', at);
  while (end != std::string_view::npos && end > 0 && code[end - 1] == '\\') {
    end = code.find('\n', end + 1);
  }
  return std::min(end, code.size());
}

std::vector<Token> tokenize(std::string_view code) {
  std::vector<Token> tokens;
  int line = 1;
  bool line_start = true;
  for (std::size_t i = 0; i < code.size();) {
    const char c = code[i];
    if (c == '\n') line_start = true;
    if (std::isspace(static_cast<unsigned char>(c)) != 0) {
      line += c == '\n' ? 1 : 0;
      ++i;
    } else if (c == '#' && line_start) {
      const std::size_t end = end_of_directive(code, i);
      line += static_cast<int>(std::count(code.begin() + static_cast<std::ptrdiff_t>(i),
                                          code.begin() + static_cast<std::ptrdiff_t>(end), '\n'));
      i = end;
    } else {
      std::size_t end = i + 1;
      while (is_word(c) && end < code.size() && is_word(code[end])) ++end;
      tokens.push_back({code.substr(i, end - i), line});
      line_start = false;
      i = end;
    }
  }
  return tokens;
}

/// Walks the declarations of a file. A declaration is what lies between two of ; { }, so its
/// tokens decide what the brace that ends it opens.
class FunctionFinder {
 public:
  explicit FunctionFinder(std::string_view code) : tokens_(tokenize(code)) {}

  std::vector<FunctionBody> run() {
    while (at_ < tokens_.size()) {
      const std::string_view token = tokens_[at_].text;
      if (token == ";" || token == "}") {
        declaration_.clear();
        ++at_;
      } else if (token == "{") {
        open_brace();
      } else if (token == "(") {
        declaration_.push_back(token);
        at_ = after_matching(at_, "(", ")");
        declaration_.push_back(")");
      } else if (token == "[") {
        at_ = after_matching(at_, "[", "]");
      } else if (token == "alignas") {
        at_ = after_matching(at_ + 1, "(", ")");
      } else if (is_access_label()) {
        declaration_.clear();
        at_ += 2;
      } else {
        declaration_.push_back(token);
        ++at_;
        if (token == "template") skip_template_header();
      }
    }
    return std::move(found_);
  }

 private:
  bool has(std::string_view word) const {
    return std::find(declaration_.begin(), declaration_.end(), word) != declaration_.end();
  }

  bool is_access_label() const {
    constexpr std::array<std::string_view, 3> kLabels = {"public", "protected", "private"};
    return declaration_.empty() && at_ + 1 < tokens_.size() && tokens_[at_ + 1].text == ":" &&
           std::find(kLabels.begin(), kLabels.end(), tokens_[at_].text) != kLabels.end();
  }

  /// class X {, struct X : Y<int(int)> {, union {; not struct X function() {.
  bool opens_class() const {
    const auto keyword = std::find_if(declaration_.begin(), declaration_.end(), [](auto token) {
      return token == "class" || token == "struct" || token == "union" || token == "(";
    });
    const auto left = declaration_.end() - keyword;
    if (left == 0 || *keyword == "(") return false;
    return left <= 2 || keyword[2] == ":" || keyword[2] == "<" || keyword[2] == "final";
  }

  /// name = {..}; an operator's own = and the = of == or <= do not count.
  bool has_initializer() const {
    constexpr std::string_view kOperators = "=!<>+-*/%&|^";
    for (std::size_t i = 1; i < declaration_.size(); ++i) {
      if (declaration_[i] == "(") return false;
      if (declaration_[i] == "=" && declaration_[i - 1] != "operator" &&
          kOperators.find(declaration_[i - 1]) == std::string_view::npos) {
        return true;
      }
    }
    return false;
  }

  /// In Type::Type(..) : member{..}, other(..) { the first brace follows a name.
  bool opens_member_initializer() const {
    for (std::size_t i = 1; i + 1 < declaration_.size(); ++i) {
      const bool list = declaration_[i] == ":" && declaration_[i + 1] != ":" &&
                        declaration_[i - 1] != ":" && has_call_before(i);
      if (list) return is_word(declaration_.back().back()) || declaration_.back() == ">";
    }
    return false;
  }

  bool has_call_before(std::size_t end) const {
    return std::find(declaration_.begin(), declaration_.begin() + static_cast<std::ptrdiff_t>(end),
                     ")") != declaration_.begin() + static_cast<std::ptrdiff_t>(end);
  }

  void open_brace() {
    const bool linkage = has("extern") && has("\"") && !has("(");
    if (has("namespace") || linkage || (opens_class() && !has("enum"))) {
      declaration_.clear();
      ++at_;
      return;
    }
    const std::size_t open = at_;
    at_ = after_matching(open, "{", "}");
    if (!has("(") || has_initializer() || opens_member_initializer()) {
      declaration_.push_back("}");
      return;
    }
    const int first = tokens_[open].line;
    found_.push_back({first, std::max(0, tokens_[at_ - 1].line - first - 1), function_name()});
    declaration_.clear();
  }

  /// The words joined by :: and ~ before the parameters.
  std::string function_name() const {
    const auto call = std::find(declaration_.begin(), declaration_.end(), "(");
    std::string name;
    for (auto part = call; part != declaration_.begin();) {
      --part;
      const bool word = is_word(part->front());
      const bool joins = *part == ":" || *part == "~";
      if (!name.empty() && ((word && is_word(name.front())) || (!word && !joins))) break;
      name.insert(0, *part);
    }
    return name;
  }

  /// template <typename T = X<1>>: its words and = say nothing about what is declared.
  void skip_template_header() {
    if (at_ < tokens_.size() && tokens_[at_].text == "<") at_ = after_matching(at_, "<", ">");
    declaration_.clear();
  }

  std::size_t after_matching(std::size_t from, std::string_view open,
                             std::string_view close) const {
    int depth = 0;
    for (std::size_t i = from; i < tokens_.size(); ++i) {
      depth += tokens_[i].text == open ? 1 : 0;
      depth -= tokens_[i].text == close ? 1 : 0;
      if (depth == 0) return i + 1;
    }
    return tokens_.size();
  }

  std::vector<Token> tokens_;
  std::vector<std::string_view> declaration_;
  std::vector<FunctionBody> found_;
  std::size_t at_ = 0;
};

}  // namespace

std::vector<FunctionBody> find_functions(std::string_view code) {
  return FunctionFinder(code).run();
}

}  // namespace quern::test
