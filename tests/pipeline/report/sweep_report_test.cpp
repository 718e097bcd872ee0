#include "pipeline/report/sweep_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/pipeline/report/sample_reports.h"

namespace quern::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

/// The row of the table of points that holds the name.
std::string row_of(const std::string& html, const std::string& name) {
  const std::size_t at = html.find(">" + name + "</a>");
  const std::size_t begin = html.rfind("<tr>", at);
  return html.substr(begin, html.find("</tr>", at) - begin);
}

json sweep_of(const std::vector<std::pair<double, double>>& sizes_and_perplexities) {
  json sweep = sample_sweep(static_cast<int>(sizes_and_perplexities.size()));
  for (std::size_t i = 0; i < sizes_and_perplexities.size(); ++i) {
    sweep["points"][i]["bits_per_weight"] = sizes_and_perplexities[i].first;
    sweep["points"][i]["perplexity"] = sizes_and_perplexities[i].second;
  }
  return sweep;
}

TEST(SweepHtml, MarksThePointsThatNoOtherBeats) {
  const std::string html =
      sweep_html(sweep_of({{3.0, 40.0}, {3.0, 39.0}, {4.0, 39.0}, {4.1, 36.0}, {2.0, 50.0}}));
  const auto is_best = [&](const std::string& name) {
    return row_of(html, name).find("&#9733;") != std::string::npos;
  };
  EXPECT_FALSE(is_best("point-0")) << "as small, worse";
  EXPECT_TRUE(is_best("point-1"));
  EXPECT_FALSE(is_best("point-2")) << "as good, larger";
  EXPECT_TRUE(is_best("point-3"));
  EXPECT_TRUE(is_best("point-4"));
}

TEST(SweepHtml, RowsHoldTheFigures) {
  const std::string row = row_of(sweep_html(sweep_of({{3.125, 38.5726}})), "point-0");
  EXPECT_THAT(row, HasSubstr("<a href=\"point/report.html\">point-0</a>"));
  EXPECT_THAT(row, HasSubstr("<td class=n>3.125</td><td class=n>38.5726</td>"));
  EXPECT_THAT(row, HasSubstr("<td class=n>+10.00 %</td>")) << "38.5726 / 35.066 = 1.1";
  EXPECT_THAT(row, HasSubstr("2.00 MB"));
  EXPECT_THAT(row, HasSubstr("measured"));
}

TEST(SweepHtml, EscapesText) {
  json sweep = sweep_of({{3.0, 40.0}});
  sweep["points"][0]["name"] = "</title><script>";
  sweep["points"][0]["report"] = "a\"b&c";
  const std::string html = sweep_html(sweep);
  EXPECT_THAT(html, Not(HasSubstr("<script>")));
  EXPECT_THAT(html, HasSubstr("href=\"a&quot;b&amp;c\""));
  EXPECT_THAT(html, HasSubstr("models/a&amp;b (llama, 32 layers)"));
  EXPECT_THAT(html, Not(HasSubstr("http")));
  EXPECT_THAT(html, Not(HasSubstr("src=")));
}

TEST(SweepHtml, WorksWithoutPerplexity) {
  json sweep = sample_sweep(2);
  sweep["perplexity_before"] = nullptr;
  for (json& point : sweep["points"]) point["perplexity"] = nullptr;
  const std::string html = sweep_html(sweep);
  EXPECT_THAT(html, HasSubstr("not evaluated"));
  EXPECT_THAT(html, Not(HasSubstr("<svg class=\"plot")));
  sweep["points"][0]["perplexity"] = 40.0;
  EXPECT_THAT(sweep_html(sweep), HasSubstr("<svg class=\"plot"));
  sweep["points"] = json::array();
  EXPECT_THAT(sweep_html(sweep), HasSubstr("0, of which 0 reused statistics"));
}

TEST(SweepHtml, SeriesAreMethodAndSparsity) {
  json sweep = sample_sweep(4);
  sweep["points"][1]["settings"]["sparsity"] = 0.0;
  sweep["points"][3]["settings"]["sparsity"]["rule"] = "joint";
  const std::string html = sweep_html(sweep);
  EXPECT_THAT(html, HasSubstr("</svg>gptq</li>"));
  EXPECT_THAT(html, HasSubstr("</svg>squeezellm</li>"));
  EXPECT_THAT(html, HasSubstr("</svg>squeezellm + 0.45 % exact (joint)</li>"));
}

TEST(SweepCsv, HoldsEveryPointInFullPrecision) {
  json sweep = sample_sweep(2);
  sweep["points"][0]["perplexity"] = nullptr;
  sweep["points"][0]["name"] = "a,\"b\"";
  sweep["points"][0]["settings"]["group_size"] = -1;
  sweep["points"][1]["perplexity"] = 39.12345678901;
  EXPECT_EQ(sweep_csv(sweep),
            "name,method,bits,group_size,sparsity,sparsity_rule,bits_per_weight,bytes,perplexity,"
            "objective,seconds,reused_statistics\r\n"
            "\"a,\"\"b\"\"\",gptq,2,-1,,,2.1,2000000,,1.5,12.5,false\r\n"
            "point-1,squeezellm,3,,0.0045,paper,3.12,3000000,39.12345678901,"
            "1.5,12.5,true\r\n");
}

}  // namespace
}  // namespace quern::test
