#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/jobs/finished_run.h"

namespace quern::test {
namespace {

using testing::ContainsRegex;
using testing::HasSubstr;

std::string quickstart() {
  return (source_dir() / "configs/quickstart.yaml").string();
}

TEST(Config, ValidatesTheRunFilesThatComeWithIt) {
  for (const auto& entry : std::filesystem::directory_iterator(source_dir() / "configs")) {
    if (entry.path().extension() != ".yaml") continue;
    const std::string path = entry.path().string();
    EXPECT_EQ(answer_of({"config", "validate", path}), path + ": valid\n");
  }
}

TEST(Config, ShowsWhereEachValueComesFrom) {
  const std::string shown =
      answer_of({"config", "show", quickstart(), "--set", "quantize.damping=0.05"});
  EXPECT_THAT(shown, ContainsRegex("bits: 4 .*quickstart.yaml:12"));
  EXPECT_THAT(shown, ContainsRegex("damping: 0.05 .*--set"));
  EXPECT_THAT(shown, ContainsRegex("seed: 0 .*default"));
}

TEST(Config, PrintsTheSchemaThatIsStored) {
  EXPECT_EQ(answer_of({"config", "schema"}), contents_of(source_dir() / "configs/run.schema.json"));
}

}  // namespace
}  // namespace quern::test
