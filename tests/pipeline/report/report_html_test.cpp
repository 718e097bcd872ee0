#include "pipeline/report/report_html.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/pipeline/report/sample_reports.h"

namespace quern::test {
namespace {

using testing::HasSubstr;
using testing::Not;

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
    ++found;
  }
  return found;
}

TEST(ReportHtml, HoldsEveryModuleAndEscapesText) {
  const std::string html = report_html(sample_report());
  EXPECT_THAT(html, HasSubstr("<td>model.layers.0.mlp.up_proj</td>"));
  EXPECT_THAT(html, HasSubstr("<td>m&lt;1&gt;&amp;&quot;q&quot;</td>"));
  EXPECT_THAT(html, HasSubstr("models/a&amp;b"));
  EXPECT_THAT(html, HasSubstr("3 bits &lt;are&gt; unusual"));
  EXPECT_THAT(html, HasSubstr("cpu &lt;&quot;b&amp;w&quot;&gt;"));
  EXPECT_THAT(html, Not(HasSubstr("<script>")));
  EXPECT_THAT(html, HasSubstr("35.5000 (4 windows, 1000 tokens)"));
  EXPECT_THAT(html, HasSubstr("not evaluated"));
  EXPECT_THAT(html, HasSubstr("1.250e-03"));
}

TEST(ReportHtml, ElementsAreClosedAndNothingIsLoaded) {
  const std::string html = report_html(sample_report());
  EXPECT_TRUE(html.starts_with("<!doctype html>"));
  EXPECT_TRUE(html.ends_with("</body></html>\n"));
  for (const std::string name :
       {"html",  "head",  "body", "table", "tr",     "td",  "th",   "div",   "h1",    "h2", "pre",
        "style", "title", "span", "p",     "strong", "svg", "text", "thead", "tbody", "i"}) {
    const std::size_t opened = count(html, "<" + name + ">") + count(html, "<" + name + " ");
    EXPECT_EQ(opened, count(html, "</" + name + ">")) << name;
  }
  EXPECT_THAT(html, Not(HasSubstr("http")));
  EXPECT_THAT(html, Not(HasSubstr("src=")));
}

TEST(ReportHtml, AFailedVerificationIsPlain) {
  nlohmann::json report = sample_report();
  report["verify"]["passed"] = false;
  EXPECT_THAT(report_html(report), HasSubstr("FAILED"));
}

TEST(ReportHtml, ColumnsOfTablesAppearWhereAModuleHasThem) {
  nlohmann::json report = sample_report();
  EXPECT_THAT(report_html(report), Not(HasSubstr("Outliers")));
  report["modules"][0].update({{"outliers", 17},
                               {"objective", 0.125},
                               {"uninformed_rows", 3},
                               {"group_size", -1},
                               {"values", "codebook"}});
  const std::string html = report_html(report);
  for (const char* head : {"Outliers", "Objective", "Uninformed rows", "Damping"}) {
    EXPECT_THAT(html, HasSubstr("<th class=n>" + std::string(head) + "</th>"));
  }
  EXPECT_THAT(html, HasSubstr("<td class=n>17</td>"));
  EXPECT_THAT(html, HasSubstr("<td class=n>4 table</td><td class=n>row</td>"));
}

TEST(ReportHtml, ShowsTheErrorOfEachModuleInAPicture) {
  const std::string html = report_html(sample_report());
  EXPECT_THAT(html, HasSubstr("<title>model.layers.0.mlp.up_proj: 1.250e-03</title></rect>"));
  EXPECT_THAT(html, HasSubstr(">mlp.up_proj</text>"));
}

}  // namespace
}  // namespace quern::test
