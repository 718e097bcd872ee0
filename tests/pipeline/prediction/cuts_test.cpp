#include "pipeline/prediction/cuts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/pipeline/small_graph.h"

namespace quern::test {
namespace {

using testing::ElementsAre;

std::vector<std::pair<std::int64_t, std::int64_t>> kinds_of(const ModelGraph& graph,
                                                            const RunFile& run) {
  std::vector<std::pair<std::int64_t, std::int64_t>> kinds;
  for (const LayerKind& kind : layer_kinds(graph, make_plan(graph, run))) {
    kinds.emplace_back(kind.first, kind.count);
  }
  return kinds;
}

TEST(LayerKinds, AreOneWhereLayersAreEqual) {
  EXPECT_THAT(kinds_of(small_graph(), small_run()), ElementsAre(std::pair(0, 4)));
}

TEST(LayerKinds, DifferByRulesAndAttention) {
  const RunFile run = small_run({R"(quantize.rules=[{match: '.*\.0\.mlp.*', bits: 8}])"});
  EXPECT_THAT(kinds_of(small_graph(), run), ElementsAre(std::pair(1, 3), std::pair(0, 1)));
  ModelGraph graph = small_graph();
  graph.geometry.window = {0, 32, 32, 0};
  EXPECT_THAT(kinds_of(graph, small_run()), ElementsAre(std::pair(0, 2), std::pair(1, 2)));
}

TEST(LayerKinds, ARareOneJoinsTheOneNearestInWork) {
  ModelGraph graph = small_graph();
  for (int copy = 0; copy < 2; ++copy) {
    for (std::int64_t layer = 0; layer < 4; ++layer) {
      graph.layers.push_back(graph.layers[static_cast<std::size_t>(layer)]);
      graph.layers.back().index = std::ssize(graph.layers) - 1;
    }
  }
  graph.geometry.layers = 12;
  graph.geometry.window = {1, 1, 1, 8, 8, 8, 16, 16, 16, 31, 31, 17};
  // A window of 17 is nearer to 16 than to 31.
  EXPECT_THAT(kinds_of(graph, small_run()),
              ElementsAre(std::pair(0, 3), std::pair(3, 3), std::pair(6, 4), std::pair(9, 2)));
}

TEST(Cuts, AddLayersOfEachKind) {
  const std::vector<LayerKind> one = {{0, 32}};
  const std::vector<Cut> cuts = cuts_of(one);
  ASSERT_EQ(cuts.size(), 2U);
  EXPECT_THAT(cuts[0].layers, ElementsAre(0, 0));
  EXPECT_THAT(cuts[1].layers, ElementsAre(0, 0, 0, 0, 0, 0));
  EXPECT_EQ(cuts[1].added, 4);
  EXPECT_EQ(cuts[1].missing, 30);
  EXPECT_EQ(most_layers(cuts), 6);
}

TEST(Cuts, HoldEveryKindOnce) {
  const std::vector<LayerKind> kinds = {{1, 10}, {0, 1}, {5, 3}};
  const std::vector<Cut> cuts = cuts_of(kinds);
  ASSERT_EQ(cuts.size(), 3U);
  EXPECT_THAT(cuts[0].layers, ElementsAre(1, 0, 5));
  EXPECT_THAT(cuts[1].layers, ElementsAre(1, 0, 5, 1, 1, 1, 1));
  EXPECT_EQ(cuts[1].missing, 9);
  EXPECT_THAT(cuts[2].layers, ElementsAre(1, 0, 5, 5, 5));
  EXPECT_EQ(cuts[2].missing, 2);
}

TEST(Cuts, OfASmallModelAreThatModel) {
  const std::vector<LayerKind> two = {{0, 2}};
  ASSERT_EQ(cuts_of(two).size(), 1U);
  EXPECT_THAT(cuts_of(two)[0].layers, ElementsAre(0, 0));
  const std::vector<LayerKind> single = {{0, 1}};
  EXPECT_THAT(cuts_of(single)[0].layers, ElementsAre(0));
}

}  // namespace
}  // namespace quern::test
