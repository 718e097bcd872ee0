#include <fmt/format.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/e2e/hostile_case.h"
#include "tests/e2e/run_folder.h"
#include "tests/workers/files/child_process.h"
#include "tests/workers/files/small_disk.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;

using Spoil = std::function<void(HostileFolder&)>;

/// A key that holds a path, set to one below the folder.
Spoil path(const std::string& key, const std::string& below) {
  return [key, below](HostileFolder& folder) {
    folder.set(key + "=" + (folder.path() / below).string());
  };
}

const std::vector<HostileCase> kRows = {
    {"RunDirectoryIsAFile", 74, {"text.txt: Not a directory"}, path("run.directory", "text.txt")},
    {"RunDirectoryBelowAFile",
     74,
     {"text.txt", "Not a directory"},
     path("run.directory", "text.txt/run")},
    {"OutputIsAFile",
     64,
     {"output.path: ", "text.txt exists and does not hold this run's output",
      "expected a new or empty folder"},
     path("output.path", "text.txt")},
    {"OutputBelowAFile", 74, {"text.txt", "Not a directory"}, path("output.path", "text.txt/out")},
    {"OutputHoldsSomethingElse",
     64,
     {"output.path: ", "/out exists and does not hold this run's",
      "choose another path or remove it"},
     [](HostileFolder& folder) {
       fs::create_directory(folder.output());
       folder.write("out/model.safetensors", "precious");
     }},
    {"OutputIsALink",
     64,
     {"output.path: ", "/out is a symbolic link", "expected a new"},
     [](HostileFolder& folder) { fs::create_symlink("nowhere", folder.output()); }},
    {"OutputWhereNothingCanBe",
     74,
     {"/proc/quern"},
     [](HostileFolder& folder) { folder.set("output.path=/proc/quern/out"); }},
    {"RunWhereNothingCanBe",
     74,
     {"/proc/quern"},
     [](HostileFolder& folder) { folder.set("run.directory=/proc/quern/run"); }},
    {"OtherSettingsInTheRunDirectory",
     64,
     {"run.directory: ", "holds a run with other settings", "config.quantize.bits: 4 in the run",
      "directory, 3 now"},
     [](HostileFolder& folder) {
       const Command good = folder.command;
       EXPECT_EQ(run_process(quern(1, good)).exit_code, 0);
       folder.set("quantize.bits=3");
       folder.set("output.path=" + (folder.path() / "other").string());
     }},
    {"ModelIsAnExport",
     65,
     {"/out: the model is quantized already", "expected an unquantized model"},
     [](HostileFolder& folder) {
       EXPECT_EQ(run_process(quern(1, folder.command)).exit_code, 0);
       folder.set("model.path=" + folder.output().string());
       folder.set("run.directory=" + (folder.path() / "other-run").string());
       folder.set("output.path=" + (folder.path() / "other").string());
     }},
    {"IdentityDamaged",
     65,
     {"identity.json:1:", "invalid JSON"},
     [](HostileFolder& folder) {
       fs::create_directory(folder.directory());
       folder.write("run/identity.json", "{\"config\": ");
     }},
};

class HostilePlace : public testing::TestWithParam<HostileCase> {};

TEST_P(HostilePlace, IsAnswered) {
  check_hostile_case(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Rows, HostilePlace, testing::ValuesIn(kRows), name_of_case);

/// The answer of the program in a mount namespace of its own, where `disk` below the folder is a
/// file system of this size; "cannot mount" where that is not allowed.
std::string answer_on_disk(const HostileFolder& folder, const std::string& size, bool read_only) {
  fs::create_directory(folder.path() / "disk");
  return in_child([&]() -> std::string {
    const fs::path disk = folder.path() / "disk";
    if (!mount_small_disk(disk, size.c_str())) return kNoMounts;
    if (read_only && !make_read_only(disk)) return kNoMounts;
    const ProcessResult result = run_process(quern(1, folder.command));
    std::string left;
    for (const auto& entry : fs::recursive_directory_iterator(disk)) {
      const std::string name = entry.path().filename().string();
      if (name.ends_with(".partial") || name.ends_with(".tmp") || name == "out") left += name + " ";
    }
    return fmt::format("{}\n{}\n{}", result.exit_code, left, result.err);
  });
}

struct DiskCase {
  const char* name;
  const char* key;
  const char* below;  ///< path on the disk
  const char* size;
  bool read_only;
  int exit_code;
  const char* fragment;
};

std::ostream& operator<<(std::ostream& stream, const DiskCase& row) {
  return stream << row.name;
}

const std::vector<DiskCase> kDiskRows = {
    {"OutputOnATinyDisk", "output.path", "disk/out", "size=64k", false, 74,
     "the exported model needs about"},
    {"RunOnATinyDisk", "run.directory", "disk/run", "size=64k", false, 74,
     "the state of the run needs about"},
    {"OutputOnAReadOnlyDisk", "output.path", "disk/out", "size=64m", true, 74,
     "Read-only file system"},
    {"RunOnAReadOnlyDisk", "run.directory", "disk/run", "size=64m", true, 74,
     "Read-only file system"},
    {"OutputIsAMountPoint", "output.path", "disk", "size=64m", false, 64, "/disk is a mount point"},
    {"RunOnADiskThatFills", "run.directory", "disk/run", "size=1100k", false, 74, "No space left"},
    {"OutputOnADiskThatFills", "output.path", "disk/out", "size=4200k", false, 74, "No space left"},
};

class HostileDisk : public testing::TestWithParam<DiskCase> {};

TEST_P(HostileDisk, IsAnswered) {
  const DiskCase& row = GetParam();
  HostileFolder folder;
  folder.set(fmt::format("{}={}", row.key, (folder.path() / row.below).string()));
  const std::string answer = answer_on_disk(folder, row.size, row.read_only);
  if (answer == kNoMounts) GTEST_SKIP() << "no mount namespace here";
  const ProcessResult result{.exit_code = std::stoi(answer), .out = {}, .err = answer};
  expect_answer(result, {row.name, row.exit_code, {row.fragment}, {}});
  EXPECT_EQ(answer.substr(2, 2), "\n\n") << answer;
}

INSTANTIATE_TEST_SUITE_P(Rows, HostileDisk, testing::ValuesIn(kDiskRows),
                         [](const auto& row) { return std::string(row.param.name); });

TEST(HostilePlaceTest, ATrailingSlashIsNoMistake) {
  HostileFolder folder;
  folder.set("output.path=" + folder.output().string() + "/");
  const ProcessResult result = run_process(quern(1, folder.command));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_TRUE(fs::exists(folder.output() / "SHA256SUMS"));
}

}  // namespace
}  // namespace quern::test
