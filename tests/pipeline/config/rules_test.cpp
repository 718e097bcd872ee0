#include "pipeline/config/rules.h"

#include <gtest/gtest.h>

#include "tests/pipeline/config/run_texts.h"

namespace quern::test {
namespace {

QuantizeConfig quantize(const std::string& rules) {
  return parse(run_text("quantize: {bits: 4, group_size: 128, rules: " + rules + "}\n"))
      .run.quantize;
}

TEST(Rules, WithoutRulesTheDefaultsHold) {
  EXPECT_EQ(settings_for(quantize("[]"), "model.layers.0.mlp.up_proj"),
            (ModuleSettings{false, GridSpec{4, 128, true, ScaleSearch::weighted}}));
}

TEST(Rules, FirstMatchWinsAndOverridesWhatItNames) {
  const QuantizeConfig config = quantize(
      R"([{match: '.*\.layers\.18\..*gate.*', bits: 8, group_size: 64},
          {match: '.*\.layers\.18\..*', symmetric: false},
          {match: '.*\.layers\.20\.mlp\.up_proj', skip: false},
          {match: '.*\.layers\.20\..*', skip: true}])");
  const auto grid = [&](const char* name) { return settings_for(config, name).grid; };
  EXPECT_EQ(grid("model.layers.18.mlp.gate_proj"), (GridSpec{8, 64, true, ScaleSearch::weighted}));
  EXPECT_EQ(grid("model.layers.18.mlp.up_proj"), (GridSpec{4, 128, false, ScaleSearch::weighted}));
  EXPECT_EQ(grid("model.layers.1.mlp.gate_proj"), (GridSpec{4, 128, true, ScaleSearch::weighted}));
  EXPECT_TRUE(settings_for(config, "model.layers.20.mlp.down_proj").skip);
  EXPECT_FALSE(settings_for(config, "model.layers.20.mlp.up_proj").skip);
}

TEST(Rules, TheWholeNameMustMatch) {
  const QuantizeConfig config = quantize("[{match: 'layers\\.1', skip: true}]");
  EXPECT_TRUE(settings_for(config, "layers.1").skip);
  EXPECT_FALSE(settings_for(config, "layers.11").skip);
  EXPECT_FALSE(settings_for(config, "model.layers.1").skip);
  EXPECT_FALSE(settings_for(config, "layersx1").skip);
}

TEST(Rules, UsualExpressionsAreAccepted) {
  for (const char* match :
       {R"(.*\.(q|k|v)_proj)", R"(.*\.layers\.(0|1|2[0-9])\..*)", R"(model\.layers\.\d{1,2}\..*)",
        R"((?:model\.)?layers\.\d+\.mlp\.experts\.\d+\.(gate|up|down)_proj)", R"([*+{(]?lm_head)",
        R"(.*\.(?!.*down).*)", R"((ab){3})", R"(a\(b*\)+)"}) {
    EXPECT_EQ(match_complaint(match), "") << match;
  }
}

TEST(Rules, NestedExpressionsAndLongNamesStayOnTheStack) {
  const std::string nested = std::string(250, '(') + "a" + std::string(250, ')');
  const QuantizeConfig config = quantize("[{match: '" + nested + "', skip: true}]");
  EXPECT_TRUE(settings_for(config, "a").skip);
  EXPECT_FALSE(settings_for(config, std::string(512, 'a')).skip);
}

TEST(Rules, LongNamesAreRefused) {
  const QuantizeConfig config = quantize("[{match: '.*', skip: true}]");
  EXPECT_TRUE(settings_for(config, std::string(512, 'a')).skip);
  EXPECT_THROW(settings_for(config, std::string(1'000'000, 'a')), InputError);
}

}  // namespace
}  // namespace quern::test
