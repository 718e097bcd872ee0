#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/jobs/finished_run.h"

namespace quern::test {
namespace {

using testing::HasSubstr;
using testing::MatchesRegex;

const std::vector<std::string> kSubcommands = {"quantize", "sweep",  "plan",   "status",
                                               "evaluate", "verify", "config", "synthesize"};

TEST(Help, NamesTheSubcommandsAndTheExitCodes) {
  const std::string help = answer_of({"--help"});
  for (const std::string& subcommand : kSubcommands) EXPECT_THAT(help, HasSubstr(subcommand));
  for (const char* code : {" 0 done", "64 ", "65 ", "70 ", "71 ", "74 ", "75 "}) {
    EXPECT_THAT(help, HasSubstr(code));
  }
}

TEST(Help, TellsTheVersion) {
  EXPECT_THAT(answer_of({"--version"}), MatchesRegex("quern [0-9]+\\.[0-9]+\\.[0-9]+\n"));
}

TEST(Help, OfASubcommandNamesItsArguments) {
  for (const std::string& subcommand : kSubcommands) {
    const std::string help = answer_of({subcommand, "--help"});
    const bool has_run_file =
        subcommand != "status" && subcommand != "config" && subcommand != "synthesize";
    EXPECT_EQ(help.find("RUN_FILE") != std::string::npos, has_run_file) << help;
    EXPECT_EQ(help.find("--set KEY=VALUE") != std::string::npos, has_run_file) << help;
  }
  EXPECT_THAT(answer_of({"status", "--help"}), HasSubstr("RUN_DIRECTORY"));
  for (const char* below : {"validate", "show", "schema"}) {
    EXPECT_THAT(answer_of({"config", "--help"}), HasSubstr(below));
    EXPECT_THAT(answer_of({"config", below, "--help"}), HasSubstr("--help"));
  }
}

}  // namespace
}  // namespace quern::test
