#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace quern::test {

/// The rules of the tree, each checked by its own function below.
enum class Rule {
  include_direction,  ///< jobs -> pipeline -> workers -> kernels, and siblings are strangers
  fence,              ///< a third-party header outside the folder that owns it
  size,               ///< header, source or function too long
  top_level,          ///< something else than the agreed entries in the root
  name,               ///< empty words in type names, get_ functions
  forbidden,          ///< getenv outside jobs/, macros, conditional compilation, open notes
  mirror,             ///< code without a folder of tests
  exemption,          ///< an exemption that nothing needs
};

struct Violation {
  Rule rule = Rule::size;
  std::string file;  ///< relative to the root
  int line = 0;      ///< 0: the whole file
  std::string what;  ///< found, expected and what to do
};

/// Lets one file break one rule; used up or reported.
struct Exemption {
  std::string file;
  Rule rule = Rule::size;
  std::string_view reason;
};

/// Checks every .h .cpp .cu .cuh file below the root's source folders, sorted by path.
/// Throws std::runtime_error if a file cannot be read.
std::vector<Violation> check_sources(const std::filesystem::path& root,
                                     const std::vector<Exemption>& exemptions);

/// entries: names directly below the root, folders without a slash.
std::vector<Violation> check_top_level(const std::vector<std::string>& entries);

/// "file:line: [rule] what", one line each.
std::string describe(const std::vector<Violation>& violations);

}  // namespace quern::test
