#include "workers/comm/watchdog.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/paths.h"

namespace quern::test {
namespace {

using namespace std::chrono_literals;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

struct Outcome {
  int exit_code;
  std::string output;
};

std::string host_name() {
  std::array<char, 64> name{};
  ::gethostname(name.data(), name.size() - 1);
  return name.data();
}

/// Runs the program on three ranks; 124 means that it had to be killed.
Outcome launch(const std::string& mode, const std::filesystem::path& directory) {
  const std::string log = (directory / "log").string();
  const std::string command = std::string("timeout -k 5 40 ") + MPIRUN + " -n 3 " +
                              LOST_RANK_PROGRAM + " " + mode + " " + directory.string() + " >" +
                              log + " 2>&1";
  const int status = std::system(command.c_str());
  std::ifstream stream(log);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1,
          {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()}};
}

Outcome launch(const std::string& mode) {
  const TemporaryDirectory directory;
  return launch(mode, directory.path());
}

TEST(WatchdogTest, AStoppedRankEndsTheJobWithItsLastWords) {
  const Outcome outcome = launch("stop");
  EXPECT_EQ(outcome.exit_code, 75);
  EXPECT_THAT(outcome.output,
              AllOf(HasSubstr("rank 1 on host " + host_name() + " has been silent for"),
                    HasSubstr("last seen in: layer 7: reduce H of mlp.down_proj"),
                    HasSubstr("rank 2 ends the job")));
}

TEST(WatchdogTest, AReportThatHangsDoesNotKeepTheJobAlive) {
  EXPECT_EQ(launch("hang-in-report").exit_code, 75);
}

TEST(WatchdogTest, AKilledRankEndsTheJob) {
  const Outcome outcome = launch("die");
  EXPECT_EQ(outcome.exit_code, 128 + SIGKILL);
  EXPECT_THAT(outcome.output,
              AllOf(HasSubstr("rank 1 on host " + host_name() +
                              " has ended, last seen in: layer 7: reduce H of mlp.down_proj"),
                    HasSubstr("rank 2 ends the job"), Not(HasSubstr("rank 2 on host"))));
}

TEST(WatchdogTest, AnErrorOfOneRankEndsTheJobWithItsCode) {
  const Outcome outcome = launch("fail-alone");
  EXPECT_EQ(outcome.exit_code, 74);
  EXPECT_THAT(outcome.output, HasSubstr("no space left on this rank alone"));
}

TEST(WatchdogTest, AnErrorOfAllRanksEndsInOrder) {
  const Outcome outcome = launch("fail-together");
  EXPECT_EQ(outcome.exit_code, 65);
  EXPECT_THAT(outcome.output, Not(HasSubstr("silent")));
}

TEST(WatchdogTest, ASlowRankIsWaitedFor) {
  const Outcome outcome = launch("be-slow");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
}

TEST(WatchdogTest, AHangingFileSystemIsNoLostRank) {
  const Outcome outcome = launch("hang-in-beat");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
}

std::vector<pid_t> wait_for_processes(const std::filesystem::path& directory) {
  std::vector<pid_t> processes;
  for (int rank = 0; rank < 3; ++rank) {
    const auto file = directory / ("pid-" + std::to_string(rank));
    for (int turn = 0; turn < 1000 && !std::filesystem::exists(file); ++turn) {
      std::this_thread::sleep_for(20ms);
    }
    pid_t process = 0;
    if (std::ifstream(file) >> process) processes.push_back(process);
  }
  return processes;
}

TEST(WatchdogTest, ASuspendedJobGoesOn) {
  const TemporaryDirectory directory;
  auto outcome =
      std::async(std::launch::async, [&] { return launch("be-suspended", directory.path()); });
  const std::vector<pid_t> processes = wait_for_processes(directory.path());
  EXPECT_EQ(processes.size(), 3U);
  for (const pid_t process : processes) ::kill(process, SIGSTOP);
  std::this_thread::sleep_for(5s);
  for (const pid_t process : processes) ::kill(process, SIGCONT);
  std::this_thread::sleep_for(1s);
  std::ofstream(directory.path() / "go") << "go";
  const Outcome result = outcome.get();
  EXPECT_EQ(result.exit_code, 0) << result.output;
}

}  // namespace
}  // namespace quern::test
