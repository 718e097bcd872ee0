#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>

#include "tests/e2e/run_folder.h"

namespace quern::test {
namespace {

using testing::HasSubstr;

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

TEST(HeldRunDirectory, RefusesASecondJobUntilTheHolderIsDead) {
  const TwoLayerModel model;
  const RunFolder run(model.path());
  const StepSignal hold{.step = 30, .signal = SIGSTOP, .rank = 0};
  Process first(quern_stepper(1, hold, run.quantize()));
  ASSERT_TRUE(wait_until([&] { return is_stopped(first.id()); })) << first.err();

  for (const int ranks : {1, 2}) {
    const ProcessResult second =
        run_process(quern(ranks, run.quantize()), std::chrono::seconds(60));
    EXPECT_EQ(second.exit_code, 64) << second.err;
    EXPECT_THAT(second.err, HasSubstr("process " + std::to_string(first.id())));
    EXPECT_THAT(second.err, HasSubstr(host_name()));
  }
  EXPECT_FALSE(std::filesystem::exists(run.output()));

  first.kill_all();
  first.wait();
  EXPECT_TRUE(std::filesystem::exists(run.directory() / "holder.json"));
  run.finish(2);
  EXPECT_FALSE(std::filesystem::exists(run.directory() / "holder.json"));
  EXPECT_EQ(run.output_hashes(), undisturbed_output(model.path(), 1));
}

}  // namespace
}  // namespace quern::test
