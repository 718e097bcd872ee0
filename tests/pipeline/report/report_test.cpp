#include "pipeline/report/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/pipeline/report/sample_reports.h"

namespace quern::test {
namespace {

using testing::HasSubstr;
using testing::Not;

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
