#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>

#include "tests/e2e/run_folder.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

const fs::path kModel = source_dir() / "tests/data/llama3m";
const Command kSave = {"run.save_activations=1"};

/// Saved activation files of a run, relative to its directory, sorted.
std::vector<std::string> saved_files(const RunFolder& run) {
  std::vector<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(run.directory() / "activations")) {
    if (entry.is_directory()) continue;
    names.push_back(entry.path().lexically_relative(run.directory()).string());
  }
  std::ranges::sort(names);
  return names;
}

/// The step after which the bundle named `bundle` has its final name.
int step_of(const std::string& bundle) {
  const RunFolder run(kModel, kSave);
  const fs::path file = run.path() / "steps";
  const Command listed = {"--steps", file.string()};
  run_process(quern_stepper(1, {}, listed + run.quantize()));
  std::ifstream lines(file);
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    if (line.starts_with("after rename") && line.ends_with(bundle)) return number;
  }
  return -1;
}

class SavedActivations : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    reference_ = undisturbed_output(kModel, 1);
    step_ = step_of("layer-002/bundle-01.h5");
  }

  /// Killed within layer 2.
  static void kill(const RunFolder& run) {
    ASSERT_GT(step_, 0);
    const ProcessResult killed = run_process(quern_stepper(1, {.step = step_}, run.quantize()));
    ASSERT_EQ(killed.signal, SIGKILL) << killed.err;
    const std::vector<std::string> files = saved_files(run);
    EXPECT_EQ(files.size(), 4U) << "only those of the newest layer";
    for (const std::string& name : files) EXPECT_THAT(name, HasSubstr("layer-002/"));
  }

  static std::map<std::string, std::string> reference_;
  static int step_;
};

std::map<std::string, std::string> SavedActivations::reference_;
int SavedActivations::step_ = 0;

TEST_F(SavedActivations, AreWhereTheNextRunStarts) {
  for (const int ranks : {1, 3}) {
    const RunFolder run(kModel, kSave);
    kill(run);
    const std::string log = run.finish(ranks).err;
    EXPECT_THAT(log, HasSubstr("inputs of layer 2 restored"));
    EXPECT_EQ(run.output_hashes(), reference_);
    EXPECT_THAT(saved_files(run), testing::Each(HasSubstr("layer-003/")));
  }
}

TEST_F(SavedActivations, AreReplayedWhenDamaged) {
  const RunFolder run(kModel, kSave);
  kill(run);
  const std::string name = saved_files(run).at(2);
  std::string bytes = contents_of(run.directory() / name);
  bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
  replace_contents(run.directory() / name, bytes);
  const std::string log = run.finish(2).err;
  EXPECT_THAT(log, HasSubstr(name + " is damaged"));
  EXPECT_THAT(log, Not(HasSubstr("restored")));
  EXPECT_EQ(run.output_hashes(), reference_);
}

}  // namespace
}  // namespace quern::test
