#include "tests/jobs/finished_run.h"

#include <gtest/gtest.h>

namespace quern::test {
namespace {

struct FinishedRun {
  FinishedRun() : run(model.path(), evaluation_settings()) { run.finish(1); }

  TwoLayerModel model;
  RunFolder run;
};

}  // namespace

std::string answer_of(const Command& arguments) {
  const ProcessResult result = run_process(quern(1, arguments));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  return result.out;
}

nlohmann::json json_answer_of(const Command& arguments) {
  const std::string text = answer_of(arguments);
  EXPECT_TRUE(nlohmann::json::accept(text)) << text;
  return nlohmann::json::parse(text, nullptr, false);
}

Command evaluation_settings() {
  return {"evaluate.source=" + (source_dir() / "tests/data/evaluation.txt").string(),
          "evaluate.sequence_length=128", "evaluate.samples=6"};
}

const RunFolder& finished_run() {
  static const FinishedRun made;
  return made.run;
}

}  // namespace quern::test
