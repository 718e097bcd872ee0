#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "tests/e2e/squeezellm_variants.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;

/// Names in a directory, at its top.
std::set<std::string> names_in(const fs::path& directory) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(directory)) {
    names.insert(entry.path().filename().string());
  }
  return names;
}

TEST(LayerInputsOfARun, GoToAFileWhereMemoryIsShort) {
  const TwoLayerModel model;
  const RunFolder usual(model.path(), paper_rule().settings);
  EXPECT_EQ(usual.finish(1).err.find("scratch file"), std::string::npos);
  for (const int ranks : {1, 3}) {
    const RunFolder run(model.path(), paper_rule().settings + Command{"run.activation_memory=1"});
    EXPECT_THAT(run.finish(ranks).err,
                testing::ContainsRegex("layer inputs: 0.0 MB in memory, 0.[1-9] MB in a scratch"));
    EXPECT_EQ(run.output_hashes(), usual.output_hashes());
    EXPECT_EQ(names_in(run.directory()), names_in(usual.directory()));
  }
}

}  // namespace
}  // namespace quern::test
