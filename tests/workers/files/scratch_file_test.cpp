#include "workers/files/scratch_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>
#include <string>
#include <vector>

#include "kernels/core/error.h"
#include "tests/support/message_of.h"
#include "tests/support/paths.h"
#include "tests/workers/files/child_process.h"
#include "tests/workers/files/small_disk.h"

namespace quern::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::vector<std::byte> bytes_of(std::size_t count, unsigned seed) {
  std::vector<std::byte> bytes(count);
  for (std::byte& byte : bytes) {
    seed = seed * 1664525U + 1013904223U;
    byte = static_cast<std::byte>(seed >> 24);
  }
  return bytes;
}

std::vector<std::byte> read(const ScratchFile& file, std::uint64_t offset, std::size_t count) {
  std::vector<std::byte> bytes(count);
  file.read(offset, bytes);
  return bytes;
}

TEST(ScratchFile, GivesBackWhatWasAppended) {
  const TemporaryDirectory directory;
  ScratchFile file(directory.path());
  EXPECT_EQ(file.size_bytes(), 0U);
  const auto first = bytes_of(1000, 1);
  const auto second = bytes_of((std::size_t{3} << 20) + 7, 2);
  EXPECT_EQ(file.append(first), 0U);
  EXPECT_EQ(file.append({}), 1000U);
  EXPECT_EQ(file.append(second), 1000U);
  EXPECT_EQ(file.size_bytes(), 1000 + second.size());
  EXPECT_EQ(read(file, 1000, second.size()), second);
  EXPECT_EQ(read(file, 0, first.size()), first);
  EXPECT_EQ(read(file, 998, 3), (std::vector<std::byte>{first[998], first[999], second.front()}));
  EXPECT_TRUE(read(file, 5, 0).empty());
}

TEST(ScratchFile, LeavesNoName) {
  const TemporaryDirectory directory;
  {
    ScratchFile file(directory.path());
    file.append(bytes_of(100, 1));
    EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
    ScratchFile other(directory.path());
    other.append(bytes_of(100, 2));
    EXPECT_EQ(read(file, 0, 100), bytes_of(100, 1));
  }
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
}

TEST(ScratchFile, LeavesNothingWhenTheProcessIsKilled) {
  const TemporaryDirectory directory;
  const std::string result = in_child([&]() -> std::string {
    ScratchFile file(directory.path());
    file.append(bytes_of(100000, 1));
    std::raise(SIGKILL);
    return "alive";
  });
  EXPECT_EQ(result, "signal 9");
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
}

TEST(ScratchFile, MovesWithItsBytes) {
  const TemporaryDirectory directory;
  ScratchFile file(directory.path());
  file.append(bytes_of(100, 1));
  ScratchFile moved = std::move(file);
  EXPECT_EQ(moved.append(bytes_of(50, 2)), 100U);
  EXPECT_EQ(read(moved, 0, 100), bytes_of(100, 1));
}

TEST(ScratchFile, TheEndIsAnErrorNotZeros) {
  const TemporaryDirectory directory;
  ScratchFile file(directory.path());
  file.append(bytes_of(100, 1));
  EXPECT_THAT(message_of<StoreError>([&] { read(file, 90, 11); }),
              AllOf(HasSubstr("read from a scratch file"), HasSubstr(directory.path().string())));
}

TEST(ScratchFile, FullDiskSaysWhatIsMissing) {
  const TemporaryDirectory directory;
  const std::string result = in_child([&]() -> std::string {
    if (!mount_small_disk(directory.path(), "size=64k")) return kNoMounts;
    ScratchFile file(directory.path());
    const auto most = bytes_of(60000, 1);
    file.append(most);
    const std::string full = message_of<StoreError>([&] { file.append(bytes_of(100000, 2)); });
    return full + (read(file, 0, most.size()) == most ? "\nkept" : "\nlost");
  });
  if (result == kNoMounts) GTEST_SKIP() << "mounting a small file system is not allowed here";
  EXPECT_THAT(result, AllOf(HasSubstr("write to a scratch file in"), HasSubstr("No space left"),
                            HasSubstr(directory.path().string()), HasSubstr("94464 bytes"),
                            HasSubstr("kept")));
}

TEST(ScratchFile, FileSizeLimit) {
  const TemporaryDirectory directory;
  const std::string result = in_child([&] {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{1000, 1000};
    setrlimit(RLIMIT_FSIZE, &limit);
    ScratchFile file(directory.path());
    return message_of<StoreError>([&] { file.append(bytes_of(5000, 1)); });
  });
  EXPECT_THAT(result, AllOf(HasSubstr("File too large"), HasSubstr("4000 bytes were still")));
}

TEST(ScratchFile, DirectoriesThatCannotBe) {
  const TemporaryDirectory directory;
  std::ofstream(directory.path() / "file") << "x";
  EXPECT_THAT(message_of<StoreError>([&] { ScratchFile(directory.path() / "absent"); }),
              AllOf(HasSubstr("make a scratch file in"), HasSubstr("absent")));
  EXPECT_THAT(message_of<StoreError>([&] { ScratchFile(directory.path() / "file"); }),
              HasSubstr("Not a directory"));
  std::filesystem::permissions(directory.path(), std::filesystem::perms{0555});
  const std::string denied = in_child([&]() -> std::string {
    if (!become_nobody()) return "still root";
    return message_of<StoreError>([&] { ScratchFile(directory.path()); });
  });
  std::filesystem::permissions(directory.path(), std::filesystem::perms{0755});
  EXPECT_THAT(denied, HasSubstr("Permission denied"));
}

}  // namespace
}  // namespace quern::test
