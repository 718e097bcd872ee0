#include "tests/structure/structure_rules.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <iterator>
#include <set>
#include <stdexcept>

#include "tests/structure/file_rules.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;

constexpr std::array<std::string_view, 5> kSourceFolders = {"kernels", "workers", "pipeline",
                                                            "jobs", "tests"};
constexpr std::array<std::string_view, 9> kTopLevel = {"CMakeLists.txt", "pipeline",  "workers",
                                                       "kernels",        "configs",   "jobs",
                                                       "tests",          "README.md", "LICENSE"};
constexpr std::array<std::string_view, 3> kMirrored = {"kernels/cpu", "workers", "pipeline"};

bool is_source(const fs::path& path) {
  const std::string extension = path.extension().string();
  return extension == ".h" || extension == ".cpp" || extension == ".cu" || extension == ".cuh";
}

std::string read_text(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  if (!stream) throw std::runtime_error("cannot read " + path.string());
  return text;
}

std::vector<std::string> source_paths(const fs::path& root) {
  std::vector<std::string> paths;
  for (const std::string_view folder : kSourceFolders) {
    if (!fs::is_directory(root / folder)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
      if (!entry.is_regular_file() || !is_source(entry.path())) continue;
      paths.push_back(entry.path().lexically_relative(root).generic_string());
    }
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

void check_mirrors(const std::vector<std::string>& paths, std::vector<Violation>& found) {
  std::set<std::string> missing;
  for (const std::string& path : paths) {
    const bool mirrored = std::any_of(kMirrored.begin(), kMirrored.end(),
                                      [&](auto folder) { return is_below(path, folder); });
    const std::string mirror = "tests/" + fs::path(path).parent_path().generic_string();
    const bool tested = std::any_of(paths.begin(), paths.end(), [&](const std::string& other) {
      return is_below(other, mirror) && other.ends_with(".cpp");
    });
    if (!mirrored || tested || !path.ends_with(".cpp") || !missing.insert(mirror).second) continue;
    found.push_back({Rule::mirror, path, 0, "has no tests: put them into " + mirror + "/"});
  }
}

/// Removes what is exempt and reports each exemption that removed nothing.
void apply_exemptions(const std::vector<Exemption>& exemptions, std::vector<Violation>& found) {
  for (const Exemption& exemption : exemptions) {
    const auto removed = std::erase_if(found, [&](const Violation& violation) {
      return violation.rule == exemption.rule && violation.file == exemption.file;
    });
    if (removed != 0) continue;
    found.push_back({Rule::exemption, exemption.file, 0,
                     "is exempt (" + std::string(exemption.reason) +
                         ") from a rule that it keeps; remove the exemption"});
  }
}

std::string_view name_of(Rule rule) {
  constexpr std::array<std::string_view, 8> kNames = {
      "include-direction", "fence",  "size",     "top-level", "name",
      "forbidden",         "mirror", "exemption"};
  return kNames.at(static_cast<std::size_t>(rule));
}

}  // namespace

std::vector<Violation> check_sources(const fs::path& root,
                                     const std::vector<Exemption>& exemptions) {
  const std::vector<std::string> paths = source_paths(root);
  std::vector<Violation> found;
  for (const std::string& path : paths) {
    const SourceFile file{path, parse_source(read_text(root / path))};
    check_include_direction(file, found);
    check_fences(file, found);
    check_sizes(file, found);
    check_names(file, found);
    check_forbidden(file, found);
  }
  check_mirrors(paths, found);
  apply_exemptions(exemptions, found);
  return found;
}

std::vector<Violation> check_top_level(const std::vector<std::string>& entries) {
  std::vector<Violation> found;
  for (const std::string& entry : entries) {
    const bool agreed = std::find(kTopLevel.begin(), kTopLevel.end(), entry) != kTopLevel.end();
    if (agreed || entry.starts_with('.')) continue;
    found.push_back({Rule::top_level, entry, 0, "does not belong into the root; move it"});
  }
  for (const std::string_view name : kTopLevel) {
    if (std::find(entries.begin(), entries.end(), name) != entries.end()) continue;
    found.push_back({Rule::top_level, std::string(name), 0, "is missing from the root"});
  }
  return found;
}

std::string describe(const std::vector<Violation>& violations) {
  std::string text;
  for (const Violation& violation : violations) {
    text += violation.file + ":" + std::to_string(violation.line) + ": [" +
            std::string(name_of(violation.rule)) + "] " + violation.what + "\n";
  }
  return text;
}

}  // namespace quern::test
