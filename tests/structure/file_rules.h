#pragma once

#include <string>
#include <vector>

#include "tests/structure/source_text.h"
#include "tests/structure/structure_rules.h"

namespace quern::test {

/// One source file and where it lies, with / between folders.
struct SourceFile {
  std::string path;  ///< relative to the root
  SourceText text;
};

/// True for the folder itself and everything below it.
bool is_below(std::string_view path, std::string_view folder);

/// Each appends what it finds in one file.
void check_include_direction(const SourceFile& file, std::vector<Violation>& found);
void check_fences(const SourceFile& file, std::vector<Violation>& found);
void check_sizes(const SourceFile& file, std::vector<Violation>& found);
void check_names(const SourceFile& file, std::vector<Violation>& found);
void check_forbidden(const SourceFile& file, std::vector<Violation>& found);

}  // namespace quern::test
