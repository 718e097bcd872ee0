#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/e2e/run_folder.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

struct Point {
  std::string name;
  Command settings;  ///< of a run by itself
};

const std::vector<Point> kPoints = {
    {"squeezellm-b3", {"quantize.bits=3"}},
    {"squeezellm-b3-s0.0005", {"quantize.bits=3", "quantize.sparsity=0.0005"}},
    {"squeezellm-b3-s0.0045", {"quantize.bits=3", "quantize.sparsity=0.0045"}},
    {"squeezellm-b4", {"quantize.bits=4"}},
    {"squeezellm-b4-s0.0005", {"quantize.bits=4", "quantize.sparsity=0.0005"}},
    {"squeezellm-b4-s0.0045", {"quantize.bits=4", "quantize.sparsity=0.0045"}},
};

bool renames_sweep_json(const std::string& step) {
  return step.starts_with("after rename") && step.ends_with("/sweep.json");
}

class Sweep : public testing::Test {
 protected:
  Sweep() : run_(model_.path(), settings()) {}

  /// Perplexity of every point.
  static Command evaluated() {
    return squeezellm("squeezellm",
                      {"evaluate.source=" + (source_dir() / "tests/data/evaluation.txt").string(),
                       "evaluate.sequence_length=64", "evaluate.samples=4"});
  }
  static Command settings() {
    return evaluated() + Command{"sweep={bits: [3, 4], sparsity: [0, 0.0005, 0.0045]}"};
  }
  static nlohmann::json json_of(const fs::path& file) {
    return nlohmann::json::parse(contents_of(file));
  }

  /// Kills the sweep when it has committed the first bundle of the third point.
  void kill_in_the_third_point() const {
    const auto steps = RunFolder(model_.path(), settings()).steps("sweep");
    const auto found = std::ranges::find_if(steps, [](const std::string& step) {
      return step.starts_with("after rename") && step.ends_with("bundle-00.h5") &&
             step.find("/run/" + kPoints[2].name + "/layers/") != std::string::npos;
    });
    ASSERT_NE(found, steps.end());
    const StepSignal at{.step = static_cast<int>(found - steps.begin()) + 1};
    const ProcessResult killed = run_process(quern_stepper(1, at, run_.arguments("sweep")));
    ASSERT_EQ(killed.signal, SIGKILL) << killed.err;
  }

  /// Modification times of what the first two points wrote.
  std::map<std::string, fs::file_time_type> finished_files() const {
    std::map<std::string, fs::file_time_type> times;
    for (const std::size_t point : {0U, 1U}) {
      for (const fs::path& root : {run_.directory(), run_.output()}) {
        for (const fs::path& file : files_below(root / kPoints[point].name)) {
          times[file.string()] = fs::last_write_time(file);
        }
      }
    }
    return times;
  }

  void expect_all_points() const {
    const nlohmann::json sweep = json_of(run_.directory() / "sweep.json");
    ASSERT_EQ(sweep.at("points").size(), kPoints.size());
    std::vector<int> measured;
    for (std::size_t i = 0; i < kPoints.size(); ++i) {
      EXPECT_EQ(sweep.at("points")[i].at("name"), kPoints[i].name);
      EXPECT_TRUE(sweep.at("points")[i].at("perplexity").is_number());
      const auto report = json_of(run_.directory() / kPoints[i].name / "report.json");
      measured.push_back(report.at("statistics").at("measured"));
    }
    EXPECT_EQ(measured, (std::vector{8, 0, 0, 0, 0, 0}));
    const std::string table = contents_of(run_.directory() / "sweep.csv");
    EXPECT_EQ(std::ranges::count(table, '\n'), 1 + std::ssize(kPoints));
    EXPECT_THAT(contents_of(run_.directory() / "sweep.html"), HasSubstr(kPoints[5].name));
  }

  TwoLayerModel model_;
  RunFolder run_;
};

TEST_F(Sweep, MeasuresOnceAndGoesOnAfterAKill) {
  kill_in_the_third_point();
  EXPECT_EQ(json_of(run_.directory() / "sweep.json").at("points").size(), 2U);
  const auto finished = finished_files();
  EXPECT_GT(finished.size(), 30U);
  const ProcessResult resumed = run_process(quern(2, run_.arguments("sweep")));
  ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_THAT(resumed.err, HasSubstr("point 2 of 6: squeezellm-b3-s0.0005, finished before"));
  EXPECT_THAT(resumed.out, HasSubstr("6 points in "));
  EXPECT_EQ(finished_files(), finished);
  expect_all_points();
  const auto again = run_.steps("sweep");
  EXPECT_EQ(std::ranges::count_if(again, renames_sweep_json), 1) << "of six finished points";
  expect_all_points();
  const ProcessResult status = run_process(quern(1, {"status", run_.directory().string()}));
  EXPECT_EQ(status.exit_code, 65);
  EXPECT_THAT(status.err, HasSubstr("the directory of a sweep"));
  EXPECT_THAT(status.err, HasSubstr("squeezellm-b4, squeezellm-b4-s0.0005"));
  for (const Point& point : kPoints) {
    EXPECT_EQ(folder_hashes(run_.output() / point.name),
              undisturbed_output(model_.path(), 1, evaluated() + point.settings))
        << point.name;
  }
}

TEST_F(Sweep, IsNotARunByItself) {
  const ProcessResult result = run_process(quern(1, run_.quantize()));
  EXPECT_EQ(result.exit_code, 64);
  EXPECT_THAT(result.err, HasSubstr("sweep: this run file describes a sweep; use 'quern sweep'"));
  EXPECT_FALSE(fs::exists(run_.directory()));
  const RunFolder single(model_.path(), evaluated());
  const ProcessResult swept = run_process(quern(1, single.arguments("sweep")));
  EXPECT_EQ(swept.exit_code, 64);
  EXPECT_THAT(swept.err, HasSubstr("sweep: the run file has no such section"));
}

}  // namespace
}  // namespace quern::test
