#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "tests/e2e/run_folder.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::Contains;
using testing::HasSubstr;
using testing::IsSupersetOf;

struct Span {
  std::int64_t begin_ns;
  std::int64_t end_ns;
  std::string name;
};

/// What the trace event format asks for, checked while it is read.
class TraceFile {
 public:
  explicit TraceFile(const fs::path& path) {
    const std::string text = contents_of(path);
    EXPECT_TRUE(json::accept(text)) << path;
    const json whole = json::parse(text, nullptr, false);
    for (const json& event : whole.at("traceEvents")) read(event);
  }

  std::set<std::string> names(int rank) const {
    std::set<std::string> result;
    for (const auto& [row, spans] : spans_) {
      if (row.first != rank) continue;
      for (const Span& span : spans) result.insert(span.name);
    }
    return result;
  }
  std::vector<std::string> rows(int rank) const {
    std::vector<std::string> result;
    for (const auto& [row, name] : row_names_) {
      if (row.first == rank) result.push_back(name);
    }
    return result;
  }
  const std::map<int, std::string>& processes() const noexcept { return processes_; }

  /// A stack of open spans: each one ends before the one it began in.
  void expect_nested() const {
    for (auto [row, spans] : spans_) {
      EXPECT_TRUE(row_names_.contains(row)) << row.first << ", " << row.second;
      std::ranges::sort(spans, [](const Span& a, const Span& b) {
        return a.begin_ns != b.begin_ns ? a.begin_ns < b.begin_ns : a.end_ns > b.end_ns;
      });
      std::vector<Span> open;
      for (const Span& span : spans) {
        while (!open.empty() && open.back().end_ns <= span.begin_ns) open.pop_back();
        if (!open.empty()) {
          EXPECT_LE(span.end_ns, open.back().end_ns) << span.name << " in " << open.back().name;
        }
        open.push_back(span);
      }
    }
  }

 private:
  using Row = std::pair<int, int>;  // process, thread

  void read(const json& event) {
    const int process = event.at("pid").get<int>();
    if (event.at("ph") == "M") {
      const std::string name = event.at("args").at("name");
      if (event.at("name") == "process_name") {
        processes_[process] = name;
      } else {
        EXPECT_EQ(event.at("name"), "thread_name");
        row_names_[{process, event.at("tid")}] = name;
      }
      return;
    }
    ASSERT_EQ(event.at("ph"), "X") << event;
    ASSERT_EQ(event.size(), 6U) << event;
    const std::int64_t begin = std::llround(event.at("ts").get<double>() * 1000.0);
    const std::int64_t length = std::llround(event.at("dur").get<double>() * 1000.0);
    EXPECT_GE(begin, 0) << event;
    EXPECT_GE(length, 0) << event;
    spans_[{process, event.at("tid")}].push_back({begin, begin + length, event.at("name")});
  }

  std::map<int, std::string> processes_;
  std::map<Row, std::string> row_names_;
  std::map<Row, std::vector<Span>> spans_;
};

class Traced : public testing::Test {
 protected:
  static Command evaluated() {
    return {"evaluate.source=" + (source_dir() / "tests/data/evaluation.txt").string(),
            "evaluate.sequence_length=64", "evaluate.samples=4"};
  }

  fs::path file() const { return folder_.path() / "trace.json"; }
  Command traced(Command arguments) const {
    return std::move(arguments) + Command{"--trace", file().string()};
  }

  TwoLayerModel model_;
  TemporaryDirectory folder_;
};

TEST_F(Traced, ARunOnTwoRanksShowsStagesUnitsAndThreads) {
  const RunFolder run(model_.path(), evaluated());
  const ProcessResult result = run_process(quern(2, traced(run.quantize())));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const TraceFile trace(file());
  trace.expect_nested();
  EXPECT_EQ(trace.processes(), (std::map<int, std::string>{{0, "rank 0"}, {1, "rank 1"}}));
  std::set<std::string> of_both;
  for (const int rank : {0, 1}) {
    const std::set<std::string> names = trace.names(rank);
    EXPECT_THAT(names, IsSupersetOf({"layer 0", "layer 1", "round 0", "layer 1: evaluate"}));
    for (const json& stage : run.report().at("stages")) {
      EXPECT_THAT(names, Contains(stage.at("stage").get<std::string>())) << "as in the report";
    }
    EXPECT_THAT(names, Contains(HasSubstr("read ")));
    EXPECT_THAT(trace.rows(rank), IsSupersetOf({"main", "worker 1"})) << "layers are prefetched";
    of_both.insert(names.begin(), names.end());
  }
  for (const fs::path& bundle : bundle_files(run.directory())) {
    EXPECT_THAT(of_both, Contains(bundle.lexically_relative(run.directory()).string()));
  }
  EXPECT_EQ(run.output_hashes(), undisturbed_output(model_.path(), 1, evaluated()));
}

TEST_F(Traced, ASweepShowsItsPointsAndTheWayBack) {
  const RunFolder run(model_.path(),
                      squeezellm("squeezellm_safetensors", {"sweep={bits: [3, 4]}"}));
  const ProcessResult result = run_process(quern(1, traced(run.arguments("sweep"))));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const TraceFile trace(file());
  trace.expect_nested();
  EXPECT_THAT(trace.names(0),
              IsSupersetOf({"squeezellm-b3", "squeezellm-b4", "layer 1: forward",
                            "layer 1: backward", "backward", "round 3", "solve", "export"}));
}

TEST_F(Traced, AnInterruptedRunLeavesItsTrace) {
  const RunFolder run(model_.path());
  const ProcessResult stopped =
      run_process(quern_stepper(2, {.step = 30, .signal = SIGUSR2}, traced(run.quantize())));
  ASSERT_EQ(stopped.exit_code, 75) << stopped.err;
  const TraceFile trace(file());
  trace.expect_nested();
  for (const int rank : {0, 1}) {
    EXPECT_THAT(trace.names(rank), Contains("layer 0"));
    EXPECT_THAT(trace.names(rank), testing::Not(Contains("export")));
  }
}

TEST_F(Traced, AnEvaluation) {
  const RunFolder run(model_.path(), evaluated());
  const ProcessResult result =
      run_process(quern(1, traced(run.arguments("evaluate") + Command{"--what", "original"})));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const TraceFile trace(file());
  trace.expect_nested();
  EXPECT_THAT(trace.names(0),
              IsSupersetOf({"layer 0: evaluate", "layer 1: evaluate", "head: evaluate"}));
}

TEST_F(Traced, APlaceThatCannotBeWrittenIsFoundFirst) {
  const RunFolder run(model_.path());
  const std::string place = (folder_.path() / "absent" / "trace.json").string();
  const ProcessResult refused = run_process(quern(1, run.quantize() + Command{"--trace", place}));
  EXPECT_EQ(refused.exit_code, 74);
  EXPECT_THAT(refused.err, HasSubstr((folder_.path() / "absent").string()));
  EXPECT_FALSE(fs::exists(run.directory()));
}

}  // namespace
}  // namespace quern::test
