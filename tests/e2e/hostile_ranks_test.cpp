#include <gtest/gtest.h>

#include <cstring>

#include "tests/e2e/hostile_case.h"
#include "tests/e2e/run_folder.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;

/// Mistakes that different parts of the program meet, on one rank alone or on all.
const std::vector<HostileCase> kRows = {
    {"CommandLine",
     64,
     {"--bits", "quern quantize --help"},
     [](HostileFolder& folder) { folder.command.emplace_back("--bits=3"); }},
    {"RunFileMissing",
     64,
     {"gone.yaml: No such file"},
     [](HostileFolder& folder) { folder.command.back() = "gone.yaml"; }},
    {"RunFileTypo",
     64,
     {"run.yaml:8:3: quantize.bitz: unknown key"},
     [](HostileFolder& folder) { folder.edit_run_file("bits: 4", "bitz: 4"); }},
    {"ModelTruncated",
     65,
     {"model.safetensors: tensor", "truncated"},
     [](HostileFolder& folder) { fs::resize_file(folder.model("model.safetensors"), 6'000'000); }},
    {"CalibrationMissing",
     65,
     {"text.txt: cannot be opened"},
     [](HostileFolder& folder) { folder.erase("text.txt"); }},
    {"WeightNotANumber",
     65,
     {"tensor 'model.layers.2.mlp.up_proj.weight': 1 of 98304 values"},
     [](HostileFolder& folder) {
       folder.edit_tensors([](TensorFile& file) {
         const std::uint16_t nan = 0x7FC0;
         std::memcpy(file.data.data() + file.begin_of("model.layers.2.mlp.up_proj.weight"), &nan,
                     sizeof(nan));
       });
     }},
    {"RunDirectoryIsAFile",
     74,
     {"text.txt: Not a directory"},
     [](HostileFolder& folder) {
       folder.set("run.directory=" + (folder.path() / "text.txt").string());
     }},
    {"EvaluateWithoutText",
     64,
     {"evaluate.source: is missing"},
     [](HostileFolder& folder) {
       folder.command.front() = "evaluate";
       folder.command = folder.command + Command{"--what", "original"};
     }},
};

class HostileRanks : public testing::TestWithParam<HostileCase> {};

TEST_P(HostileRanks, LeaveTogetherWithOneMessage) {
  HostileFolder folder;
  GetParam().spoil(folder);
  const ProcessResult result = run_process(quern(2, folder.command), std::chrono::seconds(60));
  expect_answer(result, GetParam());
  EXPECT_FALSE(result.timed_out);
  EXPECT_EQ(result.err.find("MPI_ABORT"), std::string::npos) << result.err;
  EXPECT_FALSE(fs::exists(folder.output()));
  EXPECT_FALSE(fs::exists(folder.path() / "out.partial"));
}

INSTANTIATE_TEST_SUITE_P(Rows, HostileRanks, testing::ValuesIn(kRows), name_of_case);

}  // namespace
}  // namespace quern::test
