#include "workers/store/run_holder.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "kernels/core/error.h"
#include "tests/support/paths.h"
#include "tests/workers/files/child_process.h"
#include "tests/workers/files/small_disk.h"
#include "tests/workers/store/sample_bundle.h"
#include "workers/files/hash.h"
#include "workers/process_identity.h"

namespace quern::test {
namespace {

using std::chrono::seconds;
using testing::AllOf;
using testing::HasSubstr;

/// A child that holds a directory until it is killed or released.
class HoldingChild {
 public:
  explicit HoldingChild(const std::filesystem::path& directory) {
    std::array<int, 2> ready{};
    if (pipe(ready.data()) != 0) return;
    process_ = fork();
    if (process_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      try {
        RunHolder holder(directory);
        holder.beat("layer 3 of 32");
        if (write(ready[1], "x", 1) == 1) pause();
      } catch (...) {
      }
      _exit(1);
    }
    close(ready[1]);
    char mark = 0;
    held_ = read(ready[0], &mark, 1) == 1;
    close(ready[0]);
  }
  ~HoldingChild() { end(); }
  HoldingChild(const HoldingChild&) = delete;             // owns a process
  HoldingChild& operator=(const HoldingChild&) = delete;  // likewise

  void kill_only() const { kill(process_, SIGKILL); }
  void end() {
    if (process_ <= 0) return;
    kill(process_, SIGKILL);
    waitpid(process_, nullptr, 0);
    process_ = 0;
  }
  int process() const { return process_; }
  bool held() const { return held_; }

 private:
  pid_t process_ = 0;
  bool held_ = false;
};

class RunHolderTest : public testing::Test {
 protected:
  std::filesystem::path mark() const { return directory_.path() / "holder.json"; }

  std::string refusal() const {
    try {
      RunHolder second(directory_.path());
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "not refused";
  }

  /// A mark as a process would leave it, with fields replaced, `age` old.
  void leave_mark(const nlohmann::json& changes, seconds age = seconds(0)) const {
    const ProcessIdentity self = this_process();
    nlohmann::json text{{"host", self.host},
                        {"process", self.process},
                        {"start_time", self.start_time},
                        {"boot", self.boot},
                        {"pid_namespace", self.pid_namespace},
                        {"token", "t"}};
    text.update(changes);
    put(mark(), text.dump());
    make_old(mark(), age);
  }

  static void make_old(const std::filesystem::path& file, seconds age) {
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    now.tv_sec -= age.count();
    const std::array<timespec, 2> times{now, now};
    ASSERT_EQ(utimensat(AT_FDCWD, file.c_str(), times.data(), 0), 0);
  }

  std::size_t file_count() const {
    return static_cast<std::size_t>(
        std::distance(std::filesystem::directory_iterator(directory_.path()), {}));
  }

  TemporaryDirectory directory_;
};

TEST_F(RunHolderTest, LeavesNothingBehind) {
  EXPECT_FALSE(RunHolder::inspect(directory_.path()));
  {
    RunHolder holder(directory_.path());
    holder.beat("layer 1 \xff");
    const HolderState info = RunHolder::inspect(directory_.path()).value();
    EXPECT_TRUE(info.alive);
    EXPECT_EQ(info.process, getpid());
    EXPECT_EQ(info.host, this_process().host);
    EXPECT_THAT(info.activity, HasSubstr("layer 1"));
    EXPECT_LT(info.heartbeat_age, seconds(60));
    EXPECT_FALSE(holder.taken_over());
    EXPECT_EQ(file_count(), 2U);  // the mark and the heartbeat
  }
  EXPECT_TRUE(std::filesystem::is_empty(directory_.path()));
  RunHolder again(directory_.path());
}

TEST_F(RunHolderTest, TheSameProcessIsRefusedToo) {
  RunHolder holder(directory_.path());
  EXPECT_THAT(refusal(), HasSubstr("is in use by process " + std::to_string(getpid())));
  EXPECT_FALSE(holder.taken_over());
  EXPECT_EQ(file_count(), 2U);
}

TEST_F(RunHolderTest, ALiveProcessIsRefusedByName) {
  const HoldingChild child(directory_.path());
  ASSERT_TRUE(child.held());
  make_old(directory_.path() / "heartbeat.json", seconds(5000));  // silent, but it exists
  make_old(mark(), seconds(5000));
  EXPECT_THAT(refusal(), AllOf(HasSubstr(directory_.path().string()),
                               HasSubstr("process " + std::to_string(child.process())),
                               HasSubstr("host " + this_process().host), HasSubstr("heartbeat 50"),
                               HasSubstr("layer 3 of 32"), HasSubstr("choose another directory")));
}

TEST_F(RunHolderTest, ADeadProcessDoesNotBlock) {
  HoldingChild child(directory_.path());
  ASSERT_TRUE(child.held());
  child.end();
  const HolderState dead = RunHolder::inspect(directory_.path()).value();
  EXPECT_FALSE(dead.alive);
  EXPECT_EQ(dead.activity, "layer 3 of 32");
  const RunHolder holder(directory_.path());
  EXPECT_EQ(RunHolder::inspect(directory_.path()).value().process, getpid());
  EXPECT_EQ(file_count(), 2U);
}

TEST_F(RunHolderTest, AZombieIsDead) {
  HoldingChild child(directory_.path());
  ASSERT_TRUE(child.held());
  child.kill_only();
  siginfo_t state{};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(child.process()), &state, WEXITED | WNOWAIT), 0);
  EXPECT_NO_THROW(RunHolder(directory_.path()));
}

TEST_F(RunHolderTest, AReusedProcessNumberIsNotTheHolder) {
  leave_mark({{"start_time", this_process().start_time - 1}});
  EXPECT_NO_THROW(RunHolder(directory_.path()));
  leave_mark(nlohmann::json::object());
  EXPECT_THAT(refusal(), HasSubstr("in use"));
}

TEST_F(RunHolderTest, ElsewhereTheHeartbeatDecides) {
  for (const nlohmann::json& elsewhere :
       {nlohmann::json{{"host", "elsewhere"}}, nlohmann::json{{"boot", "an earlier one"}},
        nlohmann::json{{"pid_namespace", "a container"}}}) {
    leave_mark(elsewhere, seconds(50));
    EXPECT_THAT(refusal(), AllOf(HasSubstr("heartbeat 5"), HasSubstr("after 60 s of silence")));
    leave_mark(elsewhere, seconds(70));
    EXPECT_NO_THROW(RunHolder(directory_.path())) << elsewhere;
  }
}

TEST_F(RunHolderTest, OnlyTheHoldersOwnHeartbeatCounts) {
  { RunHolder(directory_.path()).beat("x"); }
  HoldingChild child(directory_.path());
  ASSERT_TRUE(child.held());
  child.end();
  leave_mark({{"host", "elsewhere"}}, seconds(70));  // heartbeat.json is fresh, of another mark
  EXPECT_NO_THROW(RunHolder(directory_.path()));
}

TEST_F(RunHolderTest, AMarkThatCannotBeReadAgesOut) {
  for (const char* junk : {"", "{", "[]", "null", "{\"host\": 3}"}) {
    put(mark(), junk);
    EXPECT_THAT(refusal(), HasSubstr("host unknown")) << junk;
    make_old(mark(), seconds(70));
    EXPECT_NO_THROW(RunHolder(directory_.path())) << junk;
  }
}

TEST_F(RunHolderTest, SilentHolderNoticesItsSuccessor) {
  auto silent = std::make_unique<RunHolder>(directory_.path());
  leave_mark({{"host", "elsewhere"}});
  EXPECT_TRUE(silent->taken_over());
  const std::string successor = contents(mark());
  silent.reset();
  EXPECT_EQ(contents(mark()), successor);  // another's mark is not removed
}

TEST_F(RunHolderTest, AMarkThatDisappearsWasGivenUpByHand) {
  RunHolder holder(directory_.path());
  std::filesystem::remove(mark());
  EXPECT_FALSE(holder.taken_over());
  holder.beat("goes on");
}

TEST_F(RunHolderTest, OneOfManyTakesOverADeadMark) {
  leave_mark({{"start_time", 1}});
  std::array<int, 2> gate{};
  ASSERT_EQ(pipe(gate.data()), 0);
  std::vector<pid_t> children;
  for (int i = 0; i < 8; ++i) {
    children.push_back(fork());
    if (children.back() != 0) continue;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(gate[1]);
    char end = 0;
    int code = 2;
    try {
      RunHolder holder(directory_.path());
      code = read(gate[0], &end, 1) == 0 ? 0 : 3;  // holds until the gate closes
    } catch (const ConfigError&) {
      code = 1;
    } catch (...) {
    }
    _exit(code);
  }
  close(gate[0]);
  int refused = 0;
  for (int i = 0; i + 1 < 8; ++i) {  // all but the winner end by themselves
    int status = 0;
    wait(&status);
    refused += WIFEXITED(status) && WEXITSTATUS(status) == 1;
  }
  close(gate[1]);
  int winner = 0;
  wait(&winner);
  EXPECT_EQ(refused, 7);
  EXPECT_TRUE(WIFEXITED(winner) && WEXITSTATUS(winner) == 0);
  EXPECT_TRUE(std::filesystem::is_empty(directory_.path()));
}

TEST_F(RunHolderTest, DeathDuringATakeOverDoesNotBlock) {
  leave_mark({{"start_time", 1}});
  // The lock's name as the take-over makes it, left by one that died in between.
  const std::string lock_owner = contents(mark());
  const std::string text = contents(mark());
  const std::string lock = mark().string() + ".over-" + xxh3_hex(std::as_bytes(std::span(text)));
  put(lock, lock_owner);
  EXPECT_NO_THROW(RunHolder(directory_.path()));
  EXPECT_TRUE(std::filesystem::is_empty(directory_.path()));
}

TEST_F(RunHolderTest, BeatingNeverThrows) {
  RunHolder holder(directory_.path());
  std::filesystem::remove_all(directory_.path());
  holder.beat("into the void");
  EXPECT_FALSE(holder.taken_over());
}

TEST_F(RunHolderTest, FailuresAreStoreErrors) {
  EXPECT_THROW(RunHolder(directory_.path() / "absent"), StoreError);
  std::filesystem::create_symlink("nowhere", mark());
  EXPECT_THROW(RunHolder(directory_.path()), StoreError);
  EXPECT_EQ(std::filesystem::remove(mark()), true);
  std::filesystem::create_directory(mark());
  EXPECT_THROW(RunHolder(directory_.path()), StoreError);
  EXPECT_EQ(file_count(), 1U);
}

TEST_F(RunHolderTest, InspectingNeedsNoWriteAccess) {
  leave_mark({{"host", "elsewhere"}}, seconds(70));
  std::filesystem::permissions(directory_.path(), std::filesystem::perms{0555});
  const std::string result = in_child([&]() -> std::string {
    if (!become_nobody()) return "still root";
    const HolderState info = RunHolder::inspect(directory_.path()).value();
    return info.host + (info.alive ? " alive" : " dead");
  });
  std::filesystem::permissions(directory_.path(), std::filesystem::perms{0755});
  EXPECT_EQ(result, "elsewhere dead");
}

}  // namespace
}  // namespace quern::test
