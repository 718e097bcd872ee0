#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "tests/e2e/kill_check.h"

namespace quern::test {
namespace {

using std::chrono::milliseconds;

constexpr int kKills = 50;

milliseconds duration_of(const RunFolder& run, int ranks) {
  const auto start = std::chrono::steady_clock::now();
  run.finish(ranks);
  return std::chrono::duration_cast<milliseconds>(std::chrono::steady_clock::now() - start);
}

/// Kills one rank, or mpirun with all of them.
void kill_some(const Process& job, bool one_rank) {
  const std::vector<int> processes = descendants(job.id());
  if (one_rank && !processes.empty()) {
    kill(processes.back(), SIGKILL);
  } else {
    job.kill_all();
  }
}

TEST(KillAtRandom, FiftyTimesAndResumeOnOtherRankCounts) {
  const KillCheck check;
  const Command longer = {"run.save_activations=1"};
  const milliseconds usual = duration_of(RunFolder(check.model(), longer), 2);
  std::mt19937 random(20);
  auto run = std::make_unique<RunFolder>(check.model(), longer);
  int killed = 0;
  for (int runs = 0; killed < kKills; ++runs) {
    ASSERT_LT(runs, 10 * kKills);
    SCOPED_TRACE(testing::Message() << "run " << runs << ", kill " << killed);
    Process job(quern(1 + runs % 3, run->quantize()));
    const auto delay = milliseconds(random() % static_cast<unsigned>(usual.count()));
    std::this_thread::sleep_for(delay);
    if (!job.has_ended()) {
      ++killed;
      kill_some(job, random() % 2 == 0);
    }
    const ProcessResult result = job.wait();
    check.expect_sound(*run);
    if (result.exit_code != 0) continue;
    EXPECT_EQ(run->output_hashes(), check.reference());
    run = std::make_unique<RunFolder>(check.model(), longer);
  }
  check.expect_resumed(*run, 3);
}

}  // namespace
}  // namespace quern::test
