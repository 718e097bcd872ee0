#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace quern::test {

struct Include {
  int line = 0;
  std::string path;     ///< between the quotes or angle brackets
  bool quoted = false;  ///< "path", not <path>
};

struct FunctionBody {
  int line = 0;          ///< of the opening brace
  int length_lines = 0;  ///< between the braces
  std::string name;
};

/// A C++ file taken apart. code and comments have the length and the lines of the file: in code
/// every comment and the inside of every literal is blank, in comments everything else is.
struct SourceText {
  std::string code;
  std::string comments;
  std::vector<Include> includes;
  int length_lines = 0;
};

/// Never throws on malformed text: an unfinished literal or comment ends with the file.
SourceText parse_source(std::string_view text);

/// Functions defined at namespace or class scope, with whatever is nested in them. Takes
/// SourceText::code; preprocessor lines are ignored.
std::vector<FunctionBody> find_functions(std::string_view code);

/// 1 for the first line.
int line_of(std::string_view text, std::size_t position);

}  // namespace quern::test
