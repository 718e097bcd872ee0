#include "tests/e2e/hostile_case.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <set>
#include <sstream>

#include "tests/e2e/run_folder.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;

constexpr double kSecondsLimit = 5;

/// Prints the slowest answer of the program at the end.
class SlowestAnswer final : public testing::Environment {
 public:
  void note(const std::string& name, double seconds) {
    ++count_;
    if (seconds < seconds_) return;
    seconds_ = seconds;
    name_ = name;
  }
  void TearDown() override {
    std::printf("%d mistakes answered; the slowest, %s, in %.2f s\n", count_, name_.c_str(),
                seconds_);
  }

 private:
  int count_ = 0;
  std::string name_;
  double seconds_ = 0;
};

// The test program owns it.
SlowestAnswer* const g_slowest = new SlowestAnswer;
testing::Environment* const g_registered = testing::AddGlobalTestEnvironment(g_slowest);

/// Names below the root that no failed run may leave or touch, with the sizes of files.
std::set<std::string> outputs(const fs::path& root) {
  std::set<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(root)) {
    const std::string name = entry.path().lexically_relative(root).string();
    const bool temporary = name.ends_with(".tmp") || name.find(".partial") != std::string::npos;
    if (!temporary && name != "out" && !name.starts_with("out/")) continue;
    names.insert(entry.is_regular_file() ? name + " " + std::to_string(entry.file_size()) : name);
  }
  return names;
}

}  // namespace

std::ostream& operator<<(std::ostream& stream, const HostileCase& row) {
  return stream << row.name;
}

std::string name_of_case(const testing::TestParamInfo<HostileCase>& row) {
  return row.param.name;
}

std::vector<std::string> error_lines(const std::string& err) {
  std::vector<std::string> lines;
  std::istringstream stream(err);
  for (std::string line; std::getline(stream, line);) {
    if (line.starts_with("quern: error:")) lines.push_back(line);
  }
  return lines;
}

void expect_answer(const ProcessResult& result, const HostileCase& row) {
  EXPECT_EQ(result.signal, 0) << result.err;
  EXPECT_EQ(result.exit_code, row.exit_code) << result.err;
  EXPECT_EQ(error_lines(result.err).size(), 1U) << result.err;
  const std::size_t begin = result.err.find("quern: error:");
  const std::string message = begin == std::string::npos ? std::string() : result.err.substr(begin);
  for (const std::string& fragment : row.fragments) {
    EXPECT_THAT(message, testing::HasSubstr(fragment));
  }
  EXPECT_EQ(result.err.find("bug in Quern"), std::string::npos) << result.err;
}

void check_hostile_case(const HostileCase& row) {
  HostileFolder folder;
  row.spoil(folder);
  const std::set<std::string> before = outputs(folder.path());
  const auto start = std::chrono::steady_clock::now();
  const ProcessResult result = run_process(quern(1, folder.command), std::chrono::seconds(60));
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  expect_answer(result, row);
  EXPECT_EQ(outputs(folder.path()), before);
  EXPECT_EQ(result.out, "");
  EXPECT_LT(seconds, kSecondsLimit);
  g_slowest->note(row.name, seconds);
}

}  // namespace quern::test
