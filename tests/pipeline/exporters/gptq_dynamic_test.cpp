#include "pipeline/exporters/gptq_dynamic.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <regex>

#include "tests/pipeline/small_graph.h"

namespace quern::test {
namespace {

using testing::ElementsAre;
using testing::SizeIs;

nlohmann::ordered_json dynamic_of(const std::string& rules) {
  return gptq_dynamic(small_graph(), small_run({"quantize.rules=" + rules}).quantize);
}

std::vector<std::string> keys(const nlohmann::ordered_json& object) {
  std::vector<std::string> names;
  for (const auto& [key, value] : object.items()) names.push_back(key);
  return names;
}

/// What GPTQModel's documentation says a reader does: bits of the module, 0 where it is skipped.
int reader_bits(const nlohmann::ordered_json& dynamic, const std::string& module) {
  const auto matches = [&](const std::string& expression) {
    return std::regex_search(module, std::regex("^(?:" + expression + ")"));
  };
  for (const auto& [key, value] : dynamic.items()) {
    if (key.starts_with("-:") && matches(key.substr(2))) return 0;
  }
  for (const auto& [key, value] : dynamic.items()) {
    if (key.starts_with("-:")) continue;
    if (matches(key.starts_with("+:") ? key.substr(2) : key)) return value.value("bits", 4);
  }
  return 4;
}

TEST(GptqDynamic, IsEmptyWithoutRules) {
  EXPECT_TRUE(dynamic_of("[]").empty());
}

TEST(GptqDynamic, RulesThatAgreeKeepTheUsersExpressions) {
  const auto dynamic = dynamic_of(
      R"([{match: '.*down_proj', bits: 8, group_size: 32}, {match: '.*layers\.3.*q_proj', skip: true}])");
  EXPECT_THAT(keys(dynamic), ElementsAre(R"(+:(?:.*down_proj)$)", R"(-:(?:.*layers\.3.*q_proj)$)"));
  EXPECT_EQ(dynamic.begin().value(), nlohmann::json({{"bits", 8}, {"group_size", 32}}));
  EXPECT_EQ(reader_bits(dynamic, "model.layers.0.mlp.down_proj"), 8);
  EXPECT_EQ(reader_bits(dynamic, "model.layers.0.mlp.down_proj_extra"), 4);
}

TEST(GptqDynamic, ASkipThatComesLateFallsBackToEntriesPerModule) {
  // First match wins here: layer 1's down_proj has 8 bits. Readers let the skip win.
  const auto dynamic =
      dynamic_of(R"([{match: '.*down_proj', bits: 8}, {match: '.*layers\.1\..*', skip: true}])");
  EXPECT_THAT(dynamic, SizeIs(4 + 6));
  for (int layer = 0; layer < 4; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer);
    EXPECT_EQ(reader_bits(dynamic, prefix + ".mlp.down_proj"), 8);
    EXPECT_EQ(reader_bits(dynamic, prefix + ".mlp.up_proj"), layer == 1 ? 0 : 4);
    EXPECT_EQ(reader_bits(dynamic, prefix + ".self_attn.q_proj"), layer == 1 ? 0 : 4);
  }
  EXPECT_TRUE(dynamic.contains(R"(+:model\.layers\.1\.mlp\.down_proj$)"));
}

TEST(GptqDynamic, ARuleThatChangesNothingStillShieldsItsModules) {
  const auto dynamic =
      dynamic_of(R"([{match: '.*layers\.0\..*', bits: 4}, {match: '.*', bits: 3}])");
  EXPECT_EQ(reader_bits(dynamic, "model.layers.0.mlp.up_proj"), 4);
  EXPECT_EQ(reader_bits(dynamic, "model.layers.1.mlp.up_proj"), 3);
}

TEST(GptqDynamic, OfEqualExpressionsTheFirstCounts) {
  const auto dynamic =
      dynamic_of(R"([{match: '.*up_proj', bits: 8}, {match: '.*up_proj', bits: 2}])");
  EXPECT_EQ(reader_bits(dynamic, "model.layers.0.mlp.up_proj"), 8);
}

TEST(GptqDynamic, TheHeadIsResolvedOnlyWhereItIsQuantized) {
  const auto rules = R"([{match: 'lm_head', bits: 8}])";
  const RunFile run = small_run({std::string("quantize.rules=") + rules, "quantize.lm_head=true"});
  const auto dynamic = gptq_dynamic(small_graph(), run.quantize);
  EXPECT_EQ(reader_bits(dynamic, "lm_head"), 8);
  EXPECT_EQ(reader_bits(dynamic, "model.layers.0.mlp.up_proj"), 4);
}

}  // namespace
}  // namespace quern::test
