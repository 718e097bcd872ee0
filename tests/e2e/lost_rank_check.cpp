#include "tests/e2e/lost_rank_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

namespace quern::test {
namespace {

using testing::HasSubstr;

/// The ranks of a job that live and run.
std::size_t running_ranks(const RunFolder& run) {
  std::vector<int> ranks = processes_with(run.path().string());
  std::erase_if(ranks, [&](int process) {
    return program_of(process).filename() != "quern_stepper" || is_stopped(process);
  });
  return ranks.size();
}

/// One that is just starting another program has no command line for a moment.
bool has_lost_a_rank(const RunFolder& run) {
  if (running_ranks(run) == 2) return false;
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  return running_ranks(run) < 2;
}

Command losing_rank_1(const RunFolder& run, int signal, const Command& settings) {
  // The delay lets heartbeats tell what rank 1 is doing.
  const StepSignal at{.step = 12, .signal = signal, .rank = 1, .delay_ms = 1500};
  return quern_stepper(2, at, run.quantize(settings));
}

}  // namespace

void expect_lost_rank_to_cost_only_time(int signal, const Command& settings) {
  const TwoLayerModel model;
  const RunFolder run(model.path());
  Process job(losing_rank_1(run, signal, settings));
  ASSERT_TRUE(wait_until([&] { return running_ranks(run) == 2; })) << job.err();
  ASSERT_TRUE(wait_until([&] { return has_lost_a_rank(run); })) << job.err();
  const ProcessResult result = job.wait(std::chrono::seconds(10));
  EXPECT_FALSE(result.timed_out) << result.err;
  const std::string how = signal == SIGKILL ? "has ended" : "has been silent for [0-9]+ s";
  EXPECT_THAT(result.err, testing::ContainsRegex("rank 1 on host [^ ]+ " + how +
                                                 ", last seen in: [a-zH ]+ layers/layer-00"));
  EXPECT_TRUE(wait_until([&] { return processes_with(run.path().string()).empty(); },
                         std::chrono::seconds(10)));
  EXPECT_FALSE(std::filesystem::exists(run.output()));

  run.finish(1, settings);
  EXPECT_EQ(run.output_hashes(), undisturbed_output(model.path(), 1, settings));
}

}  // namespace quern::test
