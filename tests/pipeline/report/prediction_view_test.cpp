#include "pipeline/report/prediction_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quern::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

json row(const char* name, const char* unit, double predicted, double measured) {
  return {{"name", name}, {"unit", unit}, {"predicted", predicted}, {"measured", measured}};
}

TEST(PredictionView, ShowsPredictedMeasuredAndDeviation) {
  const json prediction = {{"note", ""},
                           {"totals", {row("time", "s", 90, 100), row("disk", "bytes", 3e6, 2e6)}},
                           {"stages", {row("solve", "s", 30, 25), row("load", "s", 1, 0)}}};
  EXPECT_EQ(prediction_line(prediction), "time 1 min 30 s (-10 %), disk 3.00 MB (+50 %)");
  const std::string section = prediction_section(prediction);
  EXPECT_THAT(section, HasSubstr("<td>solve</td><td class=n>30.0 s</td><td class=n>25.0 s</td>"
                                 "<td class=n>+20 %</td>"));
  EXPECT_THAT(section, HasSubstr("<td>load</td><td class=n>1.0 s</td><td class=n>0.0 s</td>"
                                 "<td class=n>-</td>"));
}

TEST(PredictionView, SaysWhyNothingIsCompared) {
  const json prediction = {
      {"note", "not compared: <x>"}, {"totals", json::array()}, {"stages", json::array()}};
  EXPECT_EQ(prediction_line(prediction), "not compared: <x>");
  EXPECT_THAT(prediction_section(prediction), HasSubstr("<p>not compared: &lt;x&gt;</p>"));
  EXPECT_EQ(prediction_line(nullptr), "");
  EXPECT_EQ(prediction_section(nullptr), "");
}

}  // namespace
}  // namespace quern::test
