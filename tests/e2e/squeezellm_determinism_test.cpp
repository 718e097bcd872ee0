#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/squeezellm_variants.h"

namespace quern::test {
namespace {

using Hashes = std::map<std::string, std::string>;

class SameTables : public testing::TestWithParam<TableVariant> {
 protected:
  static Hashes output(const TwoLayerModel& model, int ranks, const Command& more = {}) {
    return undisturbed_output(model.path(), ranks, GetParam().settings + more);
  }
};

TEST_P(SameTables, OnOneToFourRanksAndAnyThreads) {
  const TwoLayerModel model;
  const Hashes one = output(model, 1);
  ASSERT_THAT(one, testing::Contains(testing::Key("SHA256SUMS")));
  EXPECT_EQ(output(model, 1, {"run.threads=2"}), one);
  for (const int ranks : {2, 3, 4}) EXPECT_EQ(output(model, ranks), one) << ranks << " ranks";
}

TEST_P(SameTables, WithGroupedQueriesAndASlidingWindow) {
  if (shared_dir().empty()) GTEST_SKIP() << kNoShared;
  const TwoLayerModel model(shared_dir() / "models/mistral9m");
  // Longer than the window of 256; the last rank gets no sequence.
  const Command settings = {"calibration.samples=3", "calibration.sequence_length=272",
                            "calibration.micro_batch=1"};
  EXPECT_EQ(output(model, 4, settings), output(model, 1, settings));
}

INSTANTIATE_TEST_SUITE_P(Variants, SameTables, testing::ValuesIn(table_variants()),
                         [](const auto& variant) { return variant.param.name; });

TEST(Tables, ButOtherSeedsAndSparsitiesDiffer) {
  const TwoLayerModel model;
  const Command settings = paper_rule().settings;
  const Hashes one = undisturbed_output(model.path(), 1, settings);
  for (const char* other : {"calibration.seed=1", "quantize.sparsity=0.0005"}) {
    const Hashes changed = undisturbed_output(model.path(), 1, settings + Command{other});
    EXPECT_NE(changed.at("squeezellm.pt"), one.at("squeezellm.pt")) << other;
  }
}

}  // namespace
}  // namespace quern::test
