#include "pipeline/report/module_views.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/pipeline/report/sample_reports.h"

namespace quern::test {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

json module_of(const std::string& name, double error) {
  json module = module_row(name);
  module["relative_error"] = error;
  return module;
}

TEST(ModuleViews, PlacesFollowFromTheName) {
  const auto expect = [](const char* name, std::optional<std::size_t> layer, const char* kind) {
    EXPECT_EQ(place_of_module(name).layer, layer) << name;
    EXPECT_EQ(place_of_module(name).kind, kind) << name;
  };
  expect("model.layers.7.self_attn.q_proj", 7, "self_attn.q_proj");
  expect("model.decoder.layers.11.fc1", 11, "fc1");
  expect("model.layers.3.mlp.experts.255.gate_proj", 3, "mlp.experts.*.gate_proj");
  expect("lm_head", std::nullopt, "lm_head");
  expect("model.layers.7", std::nullopt, "model.layers.7");
  expect("a.7b.c", std::nullopt, "a.7b.c");
  expect("a.99999999999999999999.c", std::nullopt, "a.99999999999999999999.c");
  expect("", std::nullopt, "");
}

TEST(ModuleViews, TheMapHoldsTheWorstOfEachPlace) {
  const HeatMap map =
      error_map({module_of("m.layers.0.a", 0.1), module_of("m.layers.2.a", 0.2),
                 module_of("m.layers.2.x.0.b", 0.3), module_of("m.layers.2.x.1.b", 0.4),
                 module_of("m.layers.2.x.2.b", 0.01), module_of("lm_head", 0.5)});
  EXPECT_THAT(map.columns, ElementsAre("0", "1", "2", "lm_head"));
  EXPECT_EQ(map.counted, 3U);
  EXPECT_THAT(map.rows, ElementsAre("a", "x.*.b"));
  ASSERT_EQ(map.cells.size(), 4U);
  for (const HeatMap::Cell& cell : map.cells) {
    if (cell.column == 3) {
      EXPECT_FALSE(cell.row.has_value()) << "a column of its own";
      EXPECT_EQ(cell.value, 0.5);
    }
    if (cell.row == 1U) {
      EXPECT_EQ(cell.column, 2U);
      EXPECT_EQ(cell.value, 0.4);
      EXPECT_EQ(cell.title, "m.layers.2.x.1.b: 4.000e-01, the worst of 3");
    }
  }
}

TEST(ModuleViews, StagesHaveBarsAgainstTheLongest) {
  const std::string html = stage_table({{{"stage", "a<b"}, {"seconds", 1.0}, {"share", 0.1}},
                                        {{"stage", "c"}, {"seconds", 4.0}, {"share", 0.4}}});
  EXPECT_THAT(html, HasSubstr("<td>a&lt;b</td><td class=n>1.00</td><td class=n>10.0 %</td>"));
  EXPECT_THAT(html, HasSubstr("width:25.0%"));
  EXPECT_THAT(html, HasSubstr("width:100.0%"));
}

TEST(ModuleViews, LayersShowWhatEachStageTook) {
  EXPECT_EQ(layer_table(nlohmann::json::array()), "");
  const std::string html =
      layer_table({{{"layer", 0}, {"seconds", 0.5}, {"stages", {{"forward", 0.4}}}, {"idle", 0.1}},
                   {{"layer", 1}, {"seconds", 0.75}, {"stages", {{"a&b", 0.7}}}, {"idle", 0.05}}});
  EXPECT_THAT(html, HasSubstr("a&amp;b"));
  EXPECT_THAT(html, HasSubstr("<td class=n>0</td><td class=n>0</td><td class=n>400</td>"
                              "<td class=n>100</td><td class=n>500</td>"));
  EXPECT_THAT(html, HasSubstr("<td class=n>1</td><td class=n>700</td><td class=n>0</td>"
                              "<td class=n>50</td><td class=n>750</td>"));
}

TEST(HeatMap, ColoursAreLogarithmic) {
  const ColourRange range{.low = 1e-4, .high = 1.0};
  EXPECT_EQ(colour_of(1e-4, range), "#440154");
  EXPECT_EQ(colour_of(1.0, range), "#f8e621");
  EXPECT_EQ(colour_of(1e-2, range), "#1f948b") << "the middle of the scale";
  EXPECT_EQ(colour_of(0.0, range), "#440154");
  EXPECT_EQ(colour_of(9.0, range), "#f8e621");
  EXPECT_EQ(colour_of(3.0, {.low = 3.0, .high = 3.0}), "#440154");
}

TEST(HeatMap, TheRangeIsOfValuesAboveZero) {
  HeatMap map;
  EXPECT_EQ(range_of(map).low, 1.0);
  for (const double value : {0.0, 0.5, 0.125}) map.cells.push_back({0, 0, value, ""});
  EXPECT_EQ(range_of(map).low, 0.125);
  EXPECT_EQ(range_of(map).high, 0.5);
  const ColourRange both = united(range_of(map), {.low = 0.25, .high = 2.0});
  EXPECT_EQ(both.low, 0.125);
  EXPECT_EQ(both.high, 2.0);
}

TEST(HeatMap, NamesRowsAndSomeColumns) {
  HeatMap map{.columns = {}, .counted = 61, .rows = {"a<b"}, .cells = {{0, 0, 1.0, "tip"}}};
  for (int i = 0; i < 61; ++i) map.columns.push_back(std::to_string(i));
  const std::string html = heat_map_html(map, range_of(map));
  EXPECT_THAT(html, HasSubstr(">a&lt;b</text>"));
  EXPECT_THAT(html, HasSubstr("<title>tip</title>"));
  EXPECT_THAT(html, HasSubstr(">60</text>"));
  EXPECT_THAT(html, HasSubstr(">10</text>"));
  EXPECT_THAT(html, Not(HasSubstr(">5</text>")));
  EXPECT_THAT(heat_map_html({}, {}), HasSubstr("No modules"));
}

}  // namespace
}  // namespace quern::test
