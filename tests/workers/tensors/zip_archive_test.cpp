#include "workers/tensors/zip_archive.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "kernels/core/error.h"
#include "tests/support/message_of.h"
#include "tests/support/paths.h"
#include "tests/workers/tensors/safetensors_bytes.h"
#include "tests/workers/tensors/torch_bytes.h"
#include "workers/tensors/zip_format.h"

namespace quern::test {
namespace {

using namespace std::string_literals;
using ::testing::AllOf;
using ::testing::HasSubstr;

const std::vector<ZipPart> kParts = {{"m/a", "first"}, {"m/b", "second"}};

class ZipArchiveTest : public ::testing::Test {
 protected:
  ZipArchive read(const std::string& bytes) const {
    write_bytes(path_, bytes);
    return read_zip_archive(ReadableFile(path_));
  }
  std::string refusal(const std::string& bytes) const {
    const std::string message = message_of<InputError>([&] { read(bytes); });
    if (message == kNothingThrown) return message;
    EXPECT_THAT(message, HasSubstr(path_.string()));
    return message;
  }
  /// The file with `bytes` put over what is at `place`.
  static std::string patched(std::size_t place, const std::string& bytes) {
    return zip_bytes(kParts).replace(place, bytes.size(), bytes);
  }

  TemporaryDirectory folder_;
  std::filesystem::path path_ = folder_.path() / "archive.zip";
  // Local headers of 30 bytes and names of 3: 38 + 39 bytes, then rows of 46 + 3.
  static constexpr std::size_t kSecond = 38;
  static constexpr std::size_t kRows = 77;
  static constexpr std::size_t kEnd = kRows + 2 * 49;
};

TEST_F(ZipArchiveTest, FindsStoredEntries) {
  const std::string bytes = zip_bytes(kParts);
  ASSERT_EQ(bytes.size(), kEnd + 22);
  const ZipArchive archive = read(bytes);
  ASSERT_EQ(archive.entries.size(), 2U);
  EXPECT_EQ(archive.entries.at("m/a").begin, 33U);
  EXPECT_EQ(archive.entries.at("m/a").bytes, 5U);
  EXPECT_EQ(archive.entries.at("m/b").begin, kSecond + 33);
  EXPECT_EQ(archive.entries.at("m/b").bytes, 6U);
  std::string commented = bytes + "a remark";
  commented[kEnd + 20] = 8;
  EXPECT_EQ(read(commented).entries.size(), 2U);
  EXPECT_TRUE(read(zip_bytes({})).entries.empty());
}

TEST_F(ZipArchiveTest, ContentsAreNotRead) {
  std::string bytes = zip_bytes(kParts);
  bytes[35] = 'x';
  EXPECT_EQ(read(bytes).directory_hash, read(zip_bytes(kParts)).directory_hash);
}

TEST_F(ZipArchiveTest, TruncatedFilesAreRefused) {
  const std::string bytes = zip_bytes(kParts);
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_THAT(refusal(bytes.substr(0, length)),
                HasSubstr(length < 4 ? "not a zip file" : "truncated"))
        << length;
  }
  EXPECT_THAT(refusal("\x80\x02\x8A\x0A" + std::string(100, 'x')), HasSubstr("since PyTorch 1.6"));
  EXPECT_NE(refusal("x" + bytes), kNothingThrown);
  EXPECT_THAT(refusal(bytes + "x"), HasSubstr("truncated"));
}

TEST_F(ZipArchiveTest, CompressedAndEncryptedEntriesAreRefused) {
  EXPECT_THAT(refusal(zip_bytes({{"m/a", "x", 0, 8}})),
              AllOf(HasSubstr("\"m/a\""), HasSubstr("compressed by method 8")));
  EXPECT_THAT(refusal(zip_bytes({{"m/a", "x", 1}})), HasSubstr("encrypted"));
  EXPECT_THAT(refusal(patched(kRows + 20, le<std::uint32_t>(4))),
              AllOf(HasSubstr("\"m/a\""), HasSubstr("4 bytes for 5 bytes")));
}

TEST_F(ZipArchiveTest, NamesAppearOnce) {
  EXPECT_THAT(refusal(zip_bytes({{"m/a", "x"}, {"m/a", "y"}})),
              AllOf(HasSubstr("\"m/a\""), HasSubstr("twice")));
}

TEST_F(ZipArchiveTest, TheDirectoryMustFitTheFile) {
  EXPECT_THAT(refusal(zip_bytes(kParts, {.entries_more = 1})), HasSubstr("3 entries in 98 bytes"));
  EXPECT_THAT(refusal(zip_bytes(kParts, {.entries_more = -1})), HasSubstr("its 1 entries take"));
  EXPECT_THAT(refusal(zip_bytes(kParts, {.entries_more = 60000})), HasSubstr("60002 entries"));
  EXPECT_THAT(refusal(zip_bytes(kParts, {.directory_later = 1})), HasSubstr("directory"));
  EXPECT_THAT(refusal(zip_bytes(kParts, {.directory_later = -77})), HasSubstr("directory"));
  EXPECT_THAT(refusal(patched(kEnd + 12, le<std::uint32_t>(0xFFFFFFFE))), HasSubstr("directory"));
  EXPECT_THAT(refusal(patched(kEnd + 4, "\1")), HasSubstr("several parts"));
  EXPECT_THAT(refusal(patched(kRows, "x")), HasSubstr("damaged at its byte 0"));
  EXPECT_THAT(refusal(patched(kRows + 28, le<std::uint16_t>(0xFFFF))), HasSubstr("runs over"));
}

TEST_F(ZipArchiveTest, EntriesMustLieBeforeTheDirectoryAndApart) {
  const std::size_t second_row = kRows + 49;
  EXPECT_THAT(refusal(patched(second_row + 42, le<std::uint32_t>(0))), HasSubstr("overlaps"));
  EXPECT_THAT(refusal(patched(second_row + 42, le<std::uint32_t>(kSecond - 1))),
              HasSubstr("overlaps"));
  EXPECT_THAT(refusal(patched(second_row + 42, le<std::uint32_t>(kSecond + 1))),
              AllOf(HasSubstr("\"m/b\""), HasSubstr("does not agree")));
  EXPECT_THAT(refusal(patched(second_row + 42, le<std::uint32_t>(0xFFFFFFF0))),
              HasSubstr("before the directory"));
  const std::string large = le<std::uint32_t>(7);
  EXPECT_THAT(refusal(patched(second_row + 20, large + large)), HasSubstr("does not agree"));
  std::string bytes = patched(second_row + 20, large + large);
  bytes.replace(kSecond + 18, 8, large + large);
  EXPECT_THAT(refusal(bytes), AllOf(HasSubstr("\"m/b\""), HasSubstr("7 bytes from byte 71")));
  EXPECT_THAT(refusal(zip_bytes(kParts, {.local_name = "m/x"})),
              AllOf(HasSubstr("\"m/a\""), HasSubstr("does not agree")));
  EXPECT_THAT(refusal(patched(28, le<std::uint16_t>(60))), HasSubstr("before the directory"));
}

TEST_F(ZipArchiveTest, SizesOf64BitsMustBeThereWhereTheyAreCalledFor) {
  EXPECT_THAT(refusal(patched(kRows + 42, le<std::uint32_t>(0xFFFFFFFF))),
              AllOf(HasSubstr("\"m/a\""), HasSubstr("lacks its sizes of 64 bits")));
  std::string bytes = zip_bytes(kParts);
  const std::string locator =
      "PK\6\7" + le<std::uint32_t>(0) + le<std::uint64_t>(1ULL << 60) + le<std::uint32_t>(1);
  bytes.insert(kEnd, locator);
  EXPECT_THAT(refusal(bytes), HasSubstr("zip64 end record"));
  bytes.replace(kEnd + 8, 8, le<std::uint64_t>(3));
  EXPECT_THAT(refusal(bytes), HasSubstr("the bytes at 3 are not a zip64 end record"));
}

// A golden archive of one entry "a" with 5 GiB, and one of an entry behind 4 GiB: only what
// surrounds the contents.
TEST(ZipFormat, FieldsOf64BitsWhere32DoNotSuffice) {
  const std::uint64_t five = 5ULL << 30;
  const std::string header = zip_local_header({"a", 0x01020304, five, 0});
  const std::string sizes = le<std::uint64_t>(five) + le<std::uint64_t>(five);
  const std::string expected =
      "PK\3\4\x2D\0\0\0\0\0\0\0\x21\0\4\3\2\1\xFF\xFF\xFF\xFF\xFF\xFF\xFF"
      "\xFF\1\0\x21\0a\1\0\x10\0"s +
      sizes + "FB\x09\0ZZZZZZZZZ"s;
  EXPECT_EQ(header, expected);
  EXPECT_EQ(header.size(), 64U);
  const std::vector<ZipRecord> records = {{"a", 0x01020304, five, 0}, {"b", 5, 6, five}};
  const std::string first =
      "PK\1\2\x2D\0\x2D\0\0\0\0\0\0\0\x21\0\4\3\2\1\xFF\xFF\xFF\xFF\xFF\xFF"
      "\xFF\xFF\1\0\x14\0"s +
      std::string(14, '\0') + "a\1\0\x10\0"s + sizes;
  const std::string second =
      "PK\1\2\x2D\0\x2D\0\0\0\0\0\0\0\x21\0\5\0\0\0\6\0\0\0\6\0\0\0\1\0\x0C"
      "\0"s +
      std::string(10, '\0') +
      "\xFF\xFF\xFF\xFF"
      "b\1\0\x08\0"s +
      le<std::uint64_t>(five);
  const std::string end64 = "PK\6\6\x2C\0\0\0\0\0\0\0\x2D\0\x2D\0"s + std::string(8, '\0') +
                            le<std::uint64_t>(2) + le<std::uint64_t>(2);
  const std::string directory = zip_directory(records, five + 100);
  EXPECT_EQ(directory.substr(0, first.size()), first);
  EXPECT_EQ(directory.substr(first.size(), second.size()), second);
  EXPECT_EQ(directory.substr(first.size() + second.size(), end64.size()), end64);
}

}  // namespace
}  // namespace quern::test
