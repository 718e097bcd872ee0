#include "pipeline/report/page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/core/error.h"

namespace quern::test {
namespace {

using testing::HasSubstr;

TEST(Page, EscapesText) {
  EXPECT_EQ(escaped("<a href=\"x\">&'\n"), "&lt;a href=&quot;x&quot;&gt;&amp;'\n");
  EXPECT_THAT(html_page("a<b", "<p>body</p>"), HasSubstr("<h1>a&lt;b</h1>\n<p>body</p></body>"));
}

TEST(Page, TablesAlignNumbers) {
  Table table({{"Name", Table::Align::text}, {"Size"}});
  table.add({"a", "1"});
  EXPECT_THAT(table.html(), HasSubstr("<tr><th>Name</th><th class=n>Size</th></tr>"));
  EXPECT_THAT(table.html(), HasSubstr("<tr><td>a</td><td class=n>1</td></tr>"));
  EXPECT_THROW(table.add({"a"}), InternalError);
}

TEST(Page, QuantitiesInWords) {
  EXPECT_EQ(bytes_text(0), "0.00 kB");
  EXPECT_EQ(bytes_text(1'234'000), "1.23 MB");
  EXPECT_EQ(bytes_text(999'999'999'999), "1000.00 GB");
  EXPECT_EQ(bytes_text(2.5e15), "2500.00 TB");
  EXPECT_EQ(seconds_text(0.04), "0.0 s");
  EXPECT_EQ(seconds_text(59.9), "59.9 s");
  EXPECT_EQ(seconds_text(59.96), "1 min 00 s");
  EXPECT_EQ(seconds_text(3599.4), "59 min 59 s");
  EXPECT_EQ(seconds_text(3600), "1 h 00 min");
  EXPECT_EQ(seconds_text(93784), "26 h 03 min");
}

TEST(Page, BarsStayInTheirBox) {
  EXPECT_THAT(share_bar(0.25), HasSubstr("width:25.0%"));
  EXPECT_THAT(share_bar(1.5), HasSubstr("width:100.0%"));
  EXPECT_THAT(share_bar(-1), HasSubstr("width:0.0%"));
}

}  // namespace
}  // namespace quern::test
