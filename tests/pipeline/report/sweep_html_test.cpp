#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "pipeline/report/page.h"
#include "pipeline/report/report_html.h"
#include "pipeline/report/sweep_report.h"
#include "tests/pipeline/report/sample_reports.h"
#include "tests/support/paths.h"
#include "tests/support/process.h"

namespace quern::test {
namespace {

using nlohmann::json;

constexpr int kPoints = 20;

/// What a browser makes of a page in a frame of a given width: boxes are [left, top, right,
/// bottom].
constexpr const char* kMeasure = R"js(
const box = e => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
const boxes = (root, what) => [...root.querySelectorAll(what)].map(box);
const measured = [...document.querySelectorAll('iframe')].map(frame => {
  const page = frame.contentDocument;
  const shown = [...page.querySelectorAll('svg.plot')].filter(e => e.getClientRects().length > 0);
  return {
    width: page.documentElement.clientWidth,
    content: Math.max(page.documentElement.scrollWidth, page.body.scrollWidth),
    rows: [...page.querySelectorAll('table.list')].map(t => t.tBodies[0].rows.length),
    cells: boxes(page, '.cells rect'),
    plots: shown.map(e => ({axes: box(e.querySelector('.axis')), markers: boxes(e, '.marker'),
                            ticks: boxes(e, '.tick'), labels: boxes(e, '.label, .level')}))};
});
const out = document.createElement('p');
out.textContent = 'MEASURED' + '[' + JSON.stringify(measured) + ']' + 'END';
document.body.append(out);
)js";

std::string browser() {
  static const std::string found = [] {
    std::string path =
        run_process(
            {"sh", "-c",
             "command -v chromium || command -v chromium-browser || command -v google-chrome"})
            .out;
    return path.substr(0, path.find('\n'));
  }();
  return found;
}

/// The page laid out in frames of these widths.
json layouts(const std::string& html, const std::vector<int>& widths) {
  const TemporaryDirectory folder;
  const std::filesystem::path path = folder.path() / "frames.html";
  std::ofstream stream(path);
  stream << "<!doctype html><body>";
  for (const int width : widths) {
    stream << "<iframe style=\"border:0;height:40000px;width:" << width << "px\" srcdoc=\""
           << escaped(html) << "\"></iframe>";
  }
  stream << "<script>window.onload = () => {" << kMeasure << "}</script></body>";
  stream.close();
  const ProcessResult result = run_process(
      {browser(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
       "--user-data-dir=" + (folder.path() / "profile").string(), "--window-size=1400,1000",
       "--dump-dom", "file://" + path.string()},
      std::chrono::seconds(120));
  const std::size_t begin = result.out.find("MEASURED[[");
  const std::size_t end = result.out.find("]END", begin);
  EXPECT_NE(end, std::string::npos) << "no layout from " << browser() << "\n" << result.err;
  if (end == std::string::npos) return json::array();
  return json::parse(result.out.substr(begin + 9, end - begin - 9));
}

using Box = std::array<double, 4>;

bool overlap(const Box& a, const Box& b, double slack) {
  return a[0] + slack < b[2] && b[0] + slack < a[2] && a[1] + slack < b[3] && b[1] + slack < a[3];
}

// The line box of a text is taller than its letters.
constexpr double kTextSlack = 2.0;

void expect_inside(const Box& inner, const Box& outer, double slack) {
  EXPECT_GE(inner[0], outer[0] - slack);
  EXPECT_GE(inner[1], outer[1] - slack);
  EXPECT_LE(inner[2], outer[2] + slack);
  EXPECT_LE(inner[3], outer[3] + slack);
}

void expect_apart(const std::vector<Box>& boxes, double slack, const char* what) {
  for (std::size_t i = 0; i < boxes.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      EXPECT_FALSE(overlap(boxes[i], boxes[j], slack)) << what << " " << i << " and " << j;
    }
  }
}

class SweepPage : public testing::Test {
 protected:
  void SetUp() override {
    if (browser().empty()) {
      GTEST_SKIP() << "no chromium, chromium-browser or google-chrome in PATH; install chromium";
    }
  }
};

TEST_F(SweepPage, PointsAreInTheTableAndInsideTheAxes) {
  const json frames = layouts(sweep_html(sample_sweep(kPoints)), {360, 1200});
  ASSERT_EQ(frames.size(), 2U);
  for (const json& frame : frames) {
    EXPECT_EQ(frame.at("rows").at(0), kPoints);
    ASSERT_EQ(frame.at("plots").size(), 1U) << "one of the two drawings is shown";
    const json& plot = frame.at("plots").at(0);
    const Box axes = plot.at("axes").get<Box>();
    const auto markers = plot.at("markers").get<std::vector<Box>>();
    EXPECT_EQ(markers.size(), static_cast<std::size_t>(kPoints));
    for (const Box& marker : markers) expect_inside(marker, axes, 0.0);
    expect_inside(axes, {0.0, 0.0, frame.at("width").get<double>(), 1e9}, 0.0);
  }
}

TEST_F(SweepPage, LabelsDoNotCollide) {
  const json frames = layouts(sweep_html(sample_sweep(kPoints)), {360, 1200});
  ASSERT_EQ(frames.size(), 2U);
  for (const json& frame : frames) {
    const json& plot = frame.at("plots").at(0);
    const auto labels = plot.at("labels").get<std::vector<Box>>();
    EXPECT_EQ(labels.size(), static_cast<std::size_t>(kPoints + 1)) << "points and full precision";
    expect_apart(labels, kTextSlack, "labels");
    expect_apart(plot.at("ticks").get<std::vector<Box>>(), kTextSlack, "ticks");
    for (const Box& label : labels) expect_inside(label, plot.at("axes").get<Box>(), kTextSlack);
  }
}

TEST_F(SweepPage, FitsAPhone) {
  json report = sample_report();
  report["model"]["path"] = std::string(120, 'x');
  for (const std::string& html : {sweep_html(sample_sweep(kPoints)), report_html(report)}) {
    const json frames = layouts(html, {360});
    ASSERT_EQ(frames.size(), 1U);
    EXPECT_LE(frames.at(0).at("content"), frames.at(0).at("width"));
    EXPECT_EQ(frames.at(0).at("width"), 360);
    ASSERT_FALSE(frames.at(0).at("cells").empty());
    for (const Box& cell : frames.at(0).at("cells").get<std::vector<Box>>()) {
      EXPECT_LE(cell[2], 360.0);
      EXPECT_GT(cell[2] - cell[0], 2.0) << "a cell that can be seen";
    }
  }
}

}  // namespace
}  // namespace quern::test
