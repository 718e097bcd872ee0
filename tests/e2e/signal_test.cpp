#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tests/e2e/run_folder.h"

namespace quern::test {
namespace {

using testing::HasSubstr;

constexpr int kHoldStep = 30;  // in layer 0, well before the end

class Stopped : public testing::Test {
 protected:
  static void SetUpTestSuite() { reference_ = undisturbed_output(model(), 1); }
  static const std::filesystem::path& model() {
    static const TwoLayerModel kModel;
    return kModel.path();
  }

  /// Processes that the job's own step signal has stopped.
  static std::vector<int> held(const Process& job) {
    std::vector<int> processes = descendants(job.id());
    processes.push_back(job.id());
    std::erase_if(processes, [](int process) { return !is_stopped(process); });
    return processes;
  }

  /// A job that holds itself in the middle of layer 0 gets a signal and goes on.
  static ProcessResult interrupted(const RunFolder& run, int ranks, int signal) {
    const StepSignal hold{.step = kHoldStep, .signal = SIGSTOP, .rank = 0};
    Process job(quern_stepper(ranks, hold, run.quantize()));
    EXPECT_TRUE(wait_until([&] { return !held(job).empty(); }));
    const std::vector<int> processes = held(job);
    job.send(signal);
    for (const int process : processes) {
      EXPECT_TRUE(wait_until([&] { return is_pending(process, signal); }));
      kill(process, SIGCONT);
    }
    return job.wait();
  }

  static void expect_resumable(const RunFolder& run, int ranks) {
    EXPECT_FALSE(std::filesystem::exists(run.output()));
    const ProcessResult status =
        run_process(quern(1, {"status", run.directory().string(), "--json"}));
    EXPECT_EQ(nlohmann::json::parse(status.out).at("state"), "stopped");
    const int committed = nlohmann::json::parse(status.out).at("committed");
    EXPECT_GE(committed, 1) << "the unit in hand is finished";
    EXPECT_LE(committed, 5) << "and no more of the next layer than its first input";
    EXPECT_THAT(run.finish(ranks).err, HasSubstr("resuming"));
    EXPECT_EQ(run.output_hashes(), reference_);
  }

  static std::map<std::string, std::string> reference_;
};

std::map<std::string, std::string> Stopped::reference_;

TEST_F(Stopped, ByASignalToOneProcess) {
  for (const int signal : {SIGUSR2, SIGTERM, SIGINT}) {
    SCOPED_TRACE(testing::Message() << "signal " << signal);
    const RunFolder run(model());
    const ProcessResult result = interrupted(run, 1, signal);
    EXPECT_EQ(result.exit_code, 75) << result.err;
    EXPECT_THAT(result.err, HasSubstr("run the same command to resume"));
    expect_resumable(run, 2);
  }
}

TEST_F(Stopped, ByTheUserSignalToMpirun) {
  const RunFolder run(model());
  const ProcessResult result = interrupted(run, 2, SIGUSR2);
  EXPECT_EQ(result.exit_code, 75) << result.err;
  EXPECT_THAT(result.err, HasSubstr("run the same command to resume"));
  expect_resumable(run, 1);
}

}  // namespace
}  // namespace quern::test
