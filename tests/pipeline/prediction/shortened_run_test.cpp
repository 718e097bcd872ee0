#include "pipeline/prediction/shortened_run.h"

#include <gtest/gtest.h>

#include <array>

#include "pipeline/config/rules.h"
#include "tests/pipeline/small_graph.h"

namespace quern::test {
namespace {

using Json = nlohmann::ordered_json;

TEST(ShortenedRun, AsksOfEachModuleWhatItsOriginalIsAskedFor) {
  const RunFile run = small_run(
      {R"(quantize.rules=[{match: '.*\.3\..*up_proj', skip: true}, {match: '.*\.3\..*', bits: 8}])"});
  const std::array<std::int64_t, 3> layers = {0, 3, 0};
  const RunFile shortened = shortened_run(run, small_graph(), layers);
  const auto settings = [&](const char* name) { return settings_for(shortened.quantize, name); };
  EXPECT_EQ(settings("model.layers.0.mlp.down_proj").grid.bits, 4);
  EXPECT_EQ(settings("model.layers.1.mlp.down_proj").grid.bits, 8);
  EXPECT_EQ(settings("model.layers.1.mlp.down_proj").grid.group_size, 64);
  EXPECT_TRUE(settings("model.layers.1.mlp.up_proj").skip);
  EXPECT_EQ(settings("model.layers.2.mlp.up_proj").grid.bits, 4);
  EXPECT_FALSE(settings("model.layers.2.mlp.up_proj").skip);
}

/// Embedding and head take a part that the layers do not share: the files get smaller by less.
TEST(ShortenedRun, HasAsManyOutputFiles) {
  RunFile run = small_run();
  run.output.shard_bytes = 1'000'000;
  const std::array<std::int64_t, 4> all = {0, 1, 2, 3};
  EXPECT_EQ(shortened_run(run, small_graph(), all).output.shard_bytes, 1'000'000U);
  const std::array<std::int64_t, 2> half = {0, 1};
  const std::uint64_t bytes = shortened_run(run, small_graph(), half).output.shard_bytes;
  EXPECT_GT(bytes, 500'000U);
  EXPECT_LT(bytes, 1'000'000U);
}

TEST(ShortenedRun, ConfigKeepsTheAttentionOfEachLayer) {
  ModelGraph graph = small_graph();
  const Json config = {{"num_hidden_layers", 4}};
  const std::array<std::int64_t, 3> layers = {3, 0, 0};
  EXPECT_EQ(shortened_config(config, graph, layers), Json({{"num_hidden_layers", 3}}));
  graph.geometry.window = {16, 0, 0, 0};
  EXPECT_EQ(shortened_config(config, graph, layers).at("layer_types"),
            Json({"full_attention", "sliding_attention", "sliding_attention"}));
  graph.geometry.window = {0, 0, 0, 0};
  const Json typed = {{"num_hidden_layers", 4}, {"layer_types", {"x", "x", "x", "x"}}};
  EXPECT_EQ(shortened_config(typed, graph, layers).at("layer_types"),
            Json({"full_attention", "full_attention", "full_attention"}));
}

}  // namespace
}  // namespace quern::test
