#include "pipeline/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>

namespace quern::test {
namespace {

using testing::HasSubstr;
using testing::Not;

nlohmann::json module_row(const std::string& name) {
  return {{"name", name},
          {"out_features", 192},
          {"in_features", 512},
          {"bits", 4},
          {"group_size", 128},
          {"relative_error", 1.25e-3},
          {"damping_fraction", 0.01},
          {"dead_columns", 2}};
}

nlohmann::json sample_report() {
  const nlohmann::json perplexity = {
      {"perplexity", 35.5}, {"mean_nll", 3.57}, {"tokens", 1000}, {"windows", 4}};
  return {{"tool", "quern 0.1.0"},
          {"numerics", "cpu <\"b&w\">"},
          {"ranks", 2},
          {"config", {{"model", {{"path", "</pre><script>"}}}}},
          {"model", {{"path", "models/a&b"}, {"type", "llama"}, {"layers", 4}}},
          {"seconds", 12.5},
          {"stages", {{{"stage", "solve"}, {"seconds", 5.0}, {"share", 0.4}}}},
          {"memory", {{"peak_rank_bytes", 123456789}, {"predicted_rank_bytes", 100000000}}},
          {"perplexity", {{"before", perplexity}, {"after", nullptr}}},
          {"output",
           {{"path", "out/x"},
            {"bytes", 4000000},
            {"predicted_bytes", 4000001},
            {"bits_per_quantized_weight", 4.156}}},
          {"verify",
           {{"passed", true},
            {"files", 7},
            {"quantized_modules", 2},
            {"other_tensors", 3},
            {"problems", nlohmann::json::array()}}},
          {"warnings", {"3 bits <are> unusual"}},
          {"modules", {module_row("model.layers.0.mlp.up_proj"), module_row("m<1>&\"q\"")}}};
}

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
  for (const std::string name : {"html", "head", "body", "table", "tr", "td", "th", "div", "h1",
                                 "h2", "pre", "style", "title", "span", "p", "strong"}) {
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

TEST(ReportSummary, HasTheFiguresThatMatter) {
  nlohmann::json report = sample_report();
  std::string text = report_summary(report, "runs/x");
  EXPECT_THAT(text, HasSubstr("quantized 2 modules in 12.5 s on 2 ranks"));
  EXPECT_THAT(text, HasSubstr("4.00 MB, 4.156 bits per quantized weight"));
  EXPECT_THAT(text, Not(HasSubstr("perplexity")));
  EXPECT_THAT(text, HasSubstr("runs/x/report.html"));
  report["perplexity"]["after"] = report["perplexity"]["before"];
  report["ranks"] = 1;
  text = report_summary(report, "runs/x");
  EXPECT_THAT(text, HasSubstr("on 1 rank\n"));
  EXPECT_THAT(text, HasSubstr("35.500 before, 35.500 after (4 windows)"));
}

}  // namespace
}  // namespace quern::test
