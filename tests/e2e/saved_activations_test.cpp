#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/e2e/run_folder.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

const fs::path kModel = source_dir() / "tests/data/llama3m";

/// A walk through the layers that saves where it is, and a kill in the middle.
struct Walk {
  std::string name;
  Command settings;
  std::string bundle;    ///< whose commit is the last
  std::string at_kill;   ///< folder of the only files saved then
  std::string restored;  ///< what the log says of them
  std::string at_end;
};

std::string name_of(const testing::TestParamInfo<Walk>& info) {
  return info.param.name;
}

/// Saved activation files of a run, relative to its directory, sorted.
std::vector<std::string> saved_files(const RunFolder& run) {
  std::vector<std::string> names;
  for (const fs::path& file : files_below(run.directory() / "activations")) {
    names.push_back(file.lexically_relative(run.directory()).string());
  }
  return names;
}

class SavedActivations : public testing::TestWithParam<Walk> {
 protected:
  SavedActivations() : reference_(undisturbed_output(kModel, 1, GetParam().settings)) {
    const auto steps = RunFolder(kModel, saving()).steps();
    const auto found = std::ranges::find_if(steps, [](const std::string& step) {
      return step.starts_with("after rename") && step.ends_with(GetParam().bundle);
    });
    EXPECT_NE(found, steps.end());
    step_ = static_cast<int>(found - steps.begin()) + 1;
  }

  static Command saving() { return GetParam().settings + Command{"run.save_activations=1"}; }

  void kill(const RunFolder& run) const {
    const ProcessResult killed = run_process(quern_stepper(1, {.step = step_}, run.quantize()));
    ASSERT_EQ(killed.signal, SIGKILL) << killed.err;
    const std::vector<std::string> files = saved_files(run);
    EXPECT_EQ(files.size(), 4U) << "only those of the newest layer";
    for (const std::string& name : files) EXPECT_THAT(name, HasSubstr(GetParam().at_kill));
  }

  std::map<std::string, std::string> reference_;
  int step_ = 0;
};

TEST_P(SavedActivations, AreWhereTheNextRunStarts) {
  for (const int ranks : {1, 3}) {
    const RunFolder run(kModel, saving());
    kill(run);
    const std::string log = run.finish(ranks).err;
    EXPECT_THAT(log, HasSubstr(GetParam().restored));
    EXPECT_EQ(run.output_hashes(), reference_);
    EXPECT_THAT(saved_files(run), testing::Each(HasSubstr(GetParam().at_end)));
  }
}

TEST_P(SavedActivations, AreReplayedWhenDamaged) {
  const RunFolder run(kModel, saving());
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

INSTANTIATE_TEST_SUITE_P(Walks, SavedActivations,
                         testing::Values(Walk{"Inputs",
                                              {},
                                              "layer-002/bundle-01.h5",
                                              "layer-002/",
                                              "inputs of layer 2 restored",
                                              "layer-003/"},
                                         Walk{"Gradients",
                                              squeezellm("squeezellm", {"quantize.bits=3"}),
                                              "layer-001/bundle-01.h5", "gradient-002/",
                                              "gradients of layer 2 restored", "gradient-001/"}),
                         name_of);

}  // namespace
}  // namespace quern::test
