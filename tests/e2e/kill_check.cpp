#include "tests/e2e/kill_check.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

namespace quern::test {
namespace {

namespace fs = std::filesystem;

}  // namespace

KillCheck::KillCheck(Command settings) : settings_(std::move(settings)) {
  const RunFolder run(model(), settings_);
  steps_ = run.steps();
  reference_ = run.output_hashes();
  EXPECT_TRUE(reference_.contains("SHA256SUMS"));
}

std::string kind_of(const std::string& step) {
  if (step.starts_with("after") && !step.starts_with("after rename")) return {};
  std::string name = step.substr(step.rfind('/') + 1);
  const bool bundle = name.find(".h5") != std::string::npos;  // their stems tell statistics apart
  if (!bundle && name.find('.') != std::string::npos) name = name.substr(name.find('.'));
  std::erase_if(name, [](char letter) { return letter >= '0' && letter <= '9'; });
  if (step.find("/statistics/") != std::string::npos) name.insert(0, "statistics/");
  return step.substr(0, step.find('/')) + name;
}

void KillCheck::kill_and_resume(int step, int ranks, int resume_ranks) const {
  SCOPED_TRACE(testing::Message() << "killed at step " << step << " of rank " << ranks - 1
                                  << (ranks == 1
                                          ? ": " + steps_.at(static_cast<std::size_t>(step) - 1)
                                          : ""));
  const RunFolder run(model(), settings_);
  const StepSignal at{.step = step, .signal = SIGKILL, .rank = ranks - 1};
  const ProcessResult killed = run_process(quern_stepper(ranks, at, run.quantize()));
  if (ranks == 1) {
    ASSERT_EQ(killed.signal, SIGKILL) << killed.err;
  } else {
    ASSERT_NE(killed.exit_code, 0) << "the step was not reached";
    ASSERT_FALSE(killed.timed_out) << killed.err;
  }
  expect_sound(run);
  expect_resumed(run, resume_ranks);
}

void KillCheck::expect_sound(const RunFolder& run) const {
  if (fs::exists(run.output())) {
    EXPECT_EQ(run.output_hashes(), reference_);
  }
  const Command command = quern(1, {"status", run.directory().string(), "--json"});
  ProcessResult status;
  // mpirun may end a moment before a rank that it has killed.
  wait_until([&] {
    status = run_process(command);
    return status.out.find("\"running\"") == std::string::npos;
  });
  if (!fs::exists(run.directory() / "plan.json")) {
    EXPECT_EQ(status.exit_code, 65) << status.err;
    return;
  }
  ASSERT_EQ(status.exit_code, 0) << status.err;
  const nlohmann::json state = nlohmann::json::parse(status.out);
  EXPECT_EQ(state.at("state"),
            fs::exists(run.directory() / "report.json") ? "finished" : "stopped");
  EXPECT_LE(state.at("committed").get<std::size_t>(), bundle_files(run.directory()).size());
}

void KillCheck::expect_resumed(const RunFolder& run, int ranks) const {
  run.finish(ranks);
  EXPECT_EQ(run.output_hashes(), reference_);
  EXPECT_FALSE(fs::exists(run.output().string() + ".partial"));
}

std::vector<int> telling_steps(const std::vector<std::string>& steps, int stride) {
  std::vector<int> chosen;
  std::set<std::string> kinds = {std::string()};
  for (int number = 1; number <= static_cast<int>(steps.size()); ++number) {
    const bool new_kind = kinds.insert(kind_of(steps[static_cast<std::size_t>(number) - 1])).second;
    if (new_kind || number % stride == 0) chosen.push_back(number);
  }
  return chosen;
}

}  // namespace quern::test
