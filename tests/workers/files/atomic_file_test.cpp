#include "workers/files/atomic_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cerrno>
#include <csignal>
#include <fstream>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "kernels/core/error.h"
#include "tests/support/message_of.h"
#include "tests/support/paths.h"
#include "tests/workers/files/child_process.h"
#include "tests/workers/files/small_disk.h"

namespace quern::test {
namespace {

using std::filesystem::path;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

std::string contents(const path& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

void put(const path& file, const std::string& text) {
  std::ofstream(file, std::ios::binary) << text;
}

TEST(AtomicFile, AppearsWholeAtCommit) {
  const TemporaryDirectory directory;
  const path final_path = directory.path() / "x.bin";
  put(final_path, "old");
  put(final_path.string() + ".tmp", "a longer left-over of a killed process");
  AtomicFile file(final_path);
  file.write("new ");
  file.write(std::string_view("\0text", 5));
  EXPECT_EQ(contents(final_path), "old");
  file.commit();
  EXPECT_EQ(contents(final_path), std::string("new \0text", 9));
  EXPECT_FALSE(std::filesystem::exists(file.temporary_path()));
}

TEST(AtomicFile, WritesPiecesInOrder) {
  const TemporaryDirectory directory;
  std::string text(100000, ' ');
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>('a' + i * i % 23);
  const auto bytes = std::as_bytes(std::span(text));
  std::vector<std::span<const std::byte>> pieces(300);  // empty ones, more than one call takes
  for (std::size_t begin = 0, size = 0; begin < bytes.size();
       begin += size, size = (size + 1) % 97) {
    pieces.push_back(bytes.subspan(begin, std::min(size, bytes.size() - begin)));
  }
  AtomicFile file(directory.path() / "x");
  file.write("head ");
  file.write_pieces(pieces);
  file.write_pieces({});
  file.write(" tail");
  file.commit();
  EXPECT_EQ(contents(directory.path() / "x"), "head " + text + " tail");
}

TEST(AtomicFile, LeavesNothingWithoutCommit) {
  const TemporaryDirectory directory;
  { AtomicFile(directory.path() / "x").write("text"); }
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
}

TEST(AtomicFile, TakesTheDurableStepsInOrder) {
  const TemporaryDirectory directory;
  const std::string final_path = directory.path() / "x";
  std::vector<std::string> steps;
  write_text_file(final_path, "text", [&](std::string_view step) {
    if (step.starts_with("before ")) steps.emplace_back(step.substr(7));
  });
  EXPECT_THAT(steps,
              ElementsAre("open " + final_path + ".tmp", "write " + final_path + ".tmp",
                          "fsync " + final_path + ".tmp", "close " + final_path + ".tmp",
                          "rename " + final_path, "fsync directory " + directory.path().string()));
}

TEST(AtomicFile, IsOldOrNewWhereverItFails) {
  const TemporaryDirectory directory;
  const path final_path = directory.path() / "x";
  int reached = 0;
  for (int fatal = 0; reached >= fatal; ++fatal) {
    put(final_path, "old");
    reached = 0;
    const auto fail_there = [&](std::string_view) {
      if (reached++ == fatal) throw std::runtime_error("failed there");
    };
    try {
      write_text_file(final_path, "new text", fail_there);
    } catch (const std::runtime_error&) {
    }
    EXPECT_EQ(contents(final_path), fatal <= 8 ? "old" : "new text") << "step " << fatal;
  }
  EXPECT_EQ(reached, 12);
}

TEST(AtomicFile, PublishesWhatALibraryWrote) {
  const TemporaryDirectory directory;
  put(directory.path() / "made", "text");
  publish_file(directory.path() / "made", directory.path() / "final", {});
  EXPECT_EQ(contents(directory.path() / "final"), "text");
  EXPECT_FALSE(std::filesystem::exists(directory.path() / "made"));
}

TEST(AtomicFile, FullDeviceSaysWhatIsMissing) {
  const TemporaryDirectory directory;
  const path final_path = directory.path() / "x";
  std::filesystem::create_symlink("/dev/full", final_path.string() + ".tmp");
  EXPECT_THAT(message_of<StoreError>([&] { write_text_file(final_path, "12345"); }),
              AllOf(HasSubstr("write " + final_path.string() + ".tmp"), HasSubstr("No space left"),
                    HasSubstr("5 bytes were still to be written"),
                    HasSubstr("free space and run again"), HasSubstr("nothing committed is lost")));
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
}

TEST(AtomicFile, FullDiskAndReadOnlyDisk) {
  const TemporaryDirectory directory;
  const std::string result = in_child([&]() -> std::string {
    if (!mount_small_disk(directory.path(), "size=64k")) return kNoMounts;
    const path file = directory.path() / "x";
    const std::string full =
        message_of<StoreError>([&] { write_text_file(file, std::string(100000, 'x')); });
    const bool clean = std::filesystem::is_empty(directory.path());
    if (!make_read_only(directory.path())) return kNoMounts;
    return full + (clean ? "\nclean\n" : "\nlitter\n") +
           message_of<StoreError>([&] { write_text_file(file, "x"); });
  });
  if (result == kNoMounts) GTEST_SKIP() << "mounting a small file system is not allowed here";
  EXPECT_THAT(result, AllOf(HasSubstr("No space left"), HasSubstr("clean"),
                            HasSubstr("34464 bytes were still"), HasSubstr("Read-only file system"),
                            HasSubstr("mounted read-only")));
}

TEST(AtomicFile, FileSizeLimit) {
  const TemporaryDirectory directory;
  const std::string result = in_child([&] {
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{1000, 1000};
    setrlimit(RLIMIT_FSIZE, &limit);
    return message_of<StoreError>(
        [&] { write_text_file(directory.path() / "x", std::string(5000, 'x')); });
  });
  EXPECT_THAT(result, AllOf(HasSubstr("File too large"), HasSubstr("4000 bytes were still"),
                            HasSubstr("ulimit -f")));
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
}

TEST(AtomicFile, PermissionDenied) {
  const TemporaryDirectory directory;
  std::filesystem::permissions(directory.path(), std::filesystem::perms{0555});
  const std::string result = in_child([&]() -> std::string {
    if (!become_nobody()) return "still root";
    return message_of<StoreError>([&] { write_text_file(directory.path() / "x", "x"); });
  });
  std::filesystem::permissions(directory.path(), std::filesystem::perms{0755});
  EXPECT_THAT(result, AllOf(HasSubstr((directory.path() / "x.tmp").string()),
                            HasSubstr("Permission denied"), HasSubstr("write access")));
}

TEST(AtomicFile, PathsThatCannotBe) {
  const TemporaryDirectory directory;
  put(directory.path() / "file", "x");
  std::filesystem::create_directories(directory.path() / "taken.tmp");
  std::filesystem::create_directories(directory.path() / "folder" / "full");
  const auto failure = [&](const char* name) {
    return message_of<StoreError>([&] { write_text_file(directory.path() / name, "x"); });
  };
  EXPECT_THAT(failure("taken"), HasSubstr("Is a directory"));
  EXPECT_THAT(failure("folder"), AllOf(HasSubstr("rename"), HasSubstr("Is a directory")));
  EXPECT_THAT(failure("file/x"), HasSubstr("Not a directory"));
  EXPECT_THAT(failure("absent/x"), HasSubstr("directory is missing"));
  EXPECT_THAT(failure(std::string(300, 'n').c_str()), HasSubstr("File name too long"));
}

TEST(StoreErrors, EveryCauseHasItsOwnAdvice) {
  std::set<std::string> messages;
  const std::vector<int> causes = {ENOSPC, EDQUOT, EFBIG, EACCES, EPERM, EROFS, EIO, ENOENT, ELOOP};
  for (const int cause : causes) {
    const std::string message = store_error("write", "some/file", cause).what();
    EXPECT_THAT(message, AllOf(HasSubstr("write some/file: "), HasSubstr("nothing committed")));
    messages.insert(message.substr(message.find(';')));
  }
  EXPECT_EQ(messages.size(), causes.size());
  EXPECT_EQ(store_error("write", "f", EIO).exit_code(), ExitCode::file_system);
}

TEST(ReadFile, WholeContents) {
  const TemporaryDirectory directory;
  const path file = directory.path() / "x";
  for (const std::size_t length : {std::size_t{0}, std::size_t{1}, std::size_t{1000003}}) {
    const std::string text(length, '\0');
    put(file, text);
    EXPECT_EQ(read_text_file(file), text);
    EXPECT_EQ(read_binary_file(file).size(), length);
  }
  EXPECT_THAT(read_text_file("/proc/self/status"), HasSubstr("Pid:"));  // claims to be empty
}

TEST(ReadFile, ErrorsNameThePath) {
  const TemporaryDirectory directory;
  const path absent = directory.path() / "absent";
  EXPECT_THAT(message_of<InputError>([&] { read_text_file(absent); }),
              AllOf(HasSubstr(absent.string()), HasSubstr("No such file")));
  EXPECT_THAT(message_of<InputError>([&] { read_text_file(directory.path()); }),
              HasSubstr("Is a directory"));
}

TEST(MakeDirectories, MakesWhatIsMissing) {
  const TemporaryDirectory directory;
  std::vector<std::string> steps;
  const auto hook = [&](std::string_view step) { steps.emplace_back(step); };
  make_directories(directory.path() / "a/b/", hook);
  make_directories(directory.path() / "a/b", hook);
  EXPECT_TRUE(std::filesystem::is_directory(directory.path() / "a/b"));
  EXPECT_EQ(steps.size(), 8U);  // two directories, two steps each, before and after
  put(directory.path() / "file", "x");
  EXPECT_THAT(message_of<StoreError>([&] { make_directories(directory.path() / "file"); }),
              HasSubstr("Not a directory"));
  EXPECT_THAT(message_of<StoreError>([&] { make_directories(directory.path() / "file/a"); }),
              HasSubstr("Not a directory"));
}

TEST(RemoveDirectory, AlsoWhereOthersRemoveTheirFiles) {
  const TemporaryDirectory directory;
  const path folder = directory.path() / "partial";
  const std::vector<std::string> names = {"a", "b", "c", "d", "e", "f"};
  for (int round = 0; round < 100; ++round) {
    std::filesystem::create_directories(folder / "below");
    for (const std::string& name : names) put(folder / name, name);
    std::jthread another([&] {
      std::error_code gone;
      for (const std::string& name : names) std::filesystem::remove(folder / name, gone);
    });
    remove_directory(folder);
    another.join();
    ASSERT_FALSE(std::filesystem::exists(folder)) << round;
  }
  remove_directory(folder);  // none there
}

}  // namespace
}  // namespace quern::test
