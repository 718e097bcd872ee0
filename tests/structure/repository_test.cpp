#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <memory>
#include <set>

#include "tests/structure/structure_rules.h"
#include "tests/support/paths.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;

/// What may break a rule, and why. An entry that nothing needs fails the test.
const std::vector<Exemption>& exemptions() {
  static const std::vector<Exemption> kExemptions = {};
  return kExemptions;
}

std::string output_of(const std::string& command) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe(popen(command.c_str(), "r"), pclose);
  std::string output;
  std::array<char, 4096> buffer{};
  while (pipe && std::fgets(buffer.data(), static_cast<int>(buffer.size()), pipe.get())) {
    output += buffer.data();
  }
  return output;
}

std::string shell_quoted(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

/// What git tracks; without git what lies there, except what a build or a run leaves behind.
std::vector<std::string> top_level_entries(const fs::path& root) {
  std::set<std::string> entries;
  const std::string tracked =
      output_of("git -C " + shell_quoted(root.string()) + " ls-files 2>/dev/null");
  for (std::size_t begin = 0; begin < tracked.size();) {
    const std::size_t end = std::min(tracked.find('\n', begin), tracked.size());
    const std::string line = tracked.substr(begin, end - begin);
    entries.insert(line.substr(0, line.find('/')));
    begin = end + 1;
  }
  if (!entries.empty()) return {entries.begin(), entries.end()};
  for (const auto& entry : fs::directory_iterator(root)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("build") && name != "runs" && name != "out") entries.insert(name);
  }
  return {entries.begin(), entries.end()};
}

TEST(Repository, KeepsTheRulesOfItsSources) {
  const auto found = check_sources(source_dir(), exemptions());
  EXPECT_TRUE(found.empty()) << describe(found);
}

TEST(Repository, HasTheAgreedTopLevel) {
  const auto found = check_top_level(top_level_entries(source_dir()));
  EXPECT_TRUE(found.empty()) << describe(found);
}

TEST(Repository, NamesEachExemptionOnce) {
  std::set<std::pair<std::string, Rule>> seen;
  for (const Exemption& exemption : exemptions()) {
    EXPECT_FALSE(exemption.reason.empty()) << exemption.file;
    EXPECT_TRUE(seen.insert({exemption.file, exemption.rule}).second) << exemption.file;
  }
}

}  // namespace
}  // namespace quern::test
