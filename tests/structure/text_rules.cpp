#include <algorithm>
#include <array>
#include <cctype>
#include <regex>

#include "tests/structure/file_rules.h"

namespace quern::test {
namespace {

constexpr int kHeaderLines = 250;
constexpr int kSourceLines = 400;
constexpr int kFunctionLines = 40;
constexpr int kKernelLines = 80;

constexpr std::array<std::string_view, 7> kEmptyWords = {"Manager", "Helper", "Util", "Common",
                                                         "Base",    "Data",   "Info"};

bool is_header(std::string_view path) {
  return path.ends_with(".h") || path.ends_with(".cuh");
}

struct Match {
  int line = 0;
  std::string text;  ///< the first group
};

std::vector<Match> find_all(const std::string& text, const std::regex& expression) {
  std::vector<Match> matches;
  for (std::sregex_iterator at(text.begin(), text.end(), expression), end; at != end; ++at) {
    matches.push_back({line_of(text, static_cast<std::size_t>(at->position(1))), at->str(1)});
  }
  return matches;
}

/// The first or the last of the capitalised words in a type name, if it says nothing.
std::string_view empty_word(std::string_view name) {
  for (const std::string_view word : kEmptyWords) {
    const std::string_view rest = name.substr(std::min(word.size(), name.size()));
    const bool first = name.starts_with(word) &&
                       (rest.empty() || std::islower(static_cast<unsigned char>(rest[0])) == 0);
    const bool plural = name.ends_with('s') && name.substr(0, name.size() - 1).ends_with(word);
    if (first || plural || name.ends_with(word)) return word;
  }
  return {};
}

void report_all(const SourceFile& file, Rule rule, const std::vector<Match>& matches,
                const std::string& advice, std::vector<Violation>& found) {
  for (const Match& match : matches) {
    found.push_back({rule, file.path, match.line, "'" + match.text + "': " + advice});
  }
}

}  // namespace

void check_sizes(const SourceFile& file, std::vector<Violation>& found) {
  const int limit = is_header(file.path) ? kHeaderLines : kSourceLines;
  if (file.text.length_lines > limit) {
    found.push_back({Rule::size, file.path, 0,
                     std::to_string(file.text.length_lines) + " lines, the limit is " +
                         std::to_string(limit) + "; split the file by subject"});
  }
  const bool kernel = is_below(file.path, "kernels/cpu") || is_below(file.path, "kernels/cuda");
  const int function_limit = kernel ? kKernelLines : kFunctionLines;
  for (const FunctionBody& body : find_functions(file.text.code)) {
    if (body.length_lines <= function_limit) continue;
    found.push_back({Rule::size, file.path, body.line,
                     "function " + body.name + " has " + std::to_string(body.length_lines) +
                         " lines, the limit is " + std::to_string(function_limit) +
                         "; take a step of it out and name it"});
  }
}

void check_names(const SourceFile& file, std::vector<Violation>& found) {
  static const std::regex kType(
      R"(\b(?:class|struct|union|enum|concept)\s+(?:class\s+|struct\s+)?(?:\[\[[^\]]*\]\]\s*)?([A-Z]\w*))");
  static const std::regex kAlias(R"(\busing\s+([A-Z]\w*)\s*=)");
  static const std::regex kGetter(R"((?:[\w>&*]\s+|[&*])\b(get_\w+)\s*\()");
  for (const std::regex* expression : {&kType, &kAlias}) {
    for (const Match& match : find_all(file.text.code, *expression)) {
      const std::string_view word = empty_word(match.text);
      if (word.empty()) continue;
      found.push_back({Rule::name, file.path, match.line,
                       "type " + match.text + " is named with the empty word " + std::string(word) +
                           "; say what it is"});
    }
  }
  report_all(file, Rule::name, find_all(file.text.code, kGetter),
             "name a function after its result, without get_", found);
}

void check_forbidden(const SourceFile& file, std::vector<Violation>& found) {
  static const std::regex kEnvironment(R"(\b((?:secure_)?getenv)\s*\()");
  static const std::regex kConditional(R"((?:^|\n)[ \t]*(#[ \t]*(?:if|ifdef|ifndef|elif|else)\b))");
  static const std::regex kMacro(R"((?:^|\n)[ \t]*(#[ \t]*define\b))");
  static const std::regex kNote(R"(\b(TODO|FIXME)\b)");
  const std::string& code = file.text.code;
  if (!is_below(file.path, "jobs")) {
    report_all(file, Rule::forbidden, find_all(code, kEnvironment),
               "only jobs/ reads the environment; pass the value in", found);
  }
  report_all(file, Rule::forbidden, find_all(code, kConditional),
             "no conditional compilation; let CMake choose between two files", found);
  report_all(file, Rule::forbidden, find_all(code, kMacro),
             "no macros; write a function or a constant", found);
  report_all(file, Rule::forbidden, find_all(file.text.comments + code, kNote),
             "finish it or file it, but leave no open note", found);
  static const std::regex kOnce(R"(#[ \t]*(pragma once)\b)");
  if (is_header(file.path) && find_all(code, kOnce).empty()) {
    found.push_back({Rule::forbidden, file.path, 1, "the header lacks #pragma once"});
  }
}

}  // namespace quern::test
