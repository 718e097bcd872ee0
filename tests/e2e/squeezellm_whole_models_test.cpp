#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/squeezellm_variants.h"

namespace quern::test {
namespace {

class SameTablesOfWholeModels : public testing::TestWithParam<TableVariant> {
 protected:
  static void expect_same(const std::filesystem::path& model, const Command& more) {
    const Command settings = GetParam().settings + more;
    const auto one = undisturbed_output(model, 1, settings);
    ASSERT_THAT(one, testing::Contains(testing::Key("SHA256SUMS")));
    for (const int ranks : {2, 3, 4}) {
      EXPECT_EQ(undisturbed_output(model, ranks, settings), one) << ranks << " ranks";
    }
  }
};

TEST_P(SameTablesOfWholeModels, Llama) {
  expect_same(source_dir() / "tests/data/llama3m", {});
}

TEST_P(SameTablesOfWholeModels, MistralWithASlidingWindow) {
  if (shared_dir().empty()) GTEST_SKIP() << kNoShared;
  expect_same(
      shared_dir() / "models/mistral9m",
      {"calibration.samples=5", "calibration.sequence_length=300", "calibration.micro_batch=2"});
}

INSTANTIATE_TEST_SUITE_P(Variants, SameTablesOfWholeModels, testing::ValuesIn(table_variants()),
                         [](const auto& variant) { return variant.param.name; });

}  // namespace
}  // namespace quern::test
