#include "workers/files/hashed_file.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "kernels/core/error.h"
#include "tests/support/paths.h"

namespace quern::test {
namespace {

// FIPS 180-2, appendix B.
constexpr std::string_view kAbc =
    "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
constexpr std::string_view kMillionTimesA =
    "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

TEST(HashedFile, GivesTheStandardsValues) {
  const TemporaryDirectory folder;
  HashedFile abc(folder.path() / "abc", 3);
  abc.write_at(1, bytes_of("bc"));
  abc.write_at(3, {});
  abc.write_at(0, bytes_of("a"));
  EXPECT_EQ(abc.commit(), kAbc);
  EXPECT_EQ(read_text_file(folder.path() / "abc"), "abc");
  HashedFile many(folder.path() / "many", 1000000);
  for (std::size_t i = 0; i < 10; ++i) {
    many.write_at(i * 100000, bytes_of(std::string(100000, 'a')));
  }
  EXPECT_EQ(many.commit(), kMillionTimesA);
}

TEST(HashedFile, TakesPiecesInAnyOrderFromSeveralThreads) {
  const TemporaryDirectory folder;
  const std::filesystem::path path = folder.path() / "large";
  std::string whole((5U << 20) + 17U, '\0');
  for (std::size_t i = 0; i < whole.size(); ++i) whole[i] = static_cast<char>(i * i >> 3);
  HashedFile file(path, whole.size());
  {
    constexpr std::size_t kPiece = 300001;
    std::vector<std::jthread> threads;
    for (std::size_t thread = 0; thread < 3; ++thread) {
      threads.emplace_back([&, thread] {
        for (std::size_t i = 17; i-- > 0;) {  // from the end
          const std::size_t begin = (3 * i + thread) * kPiece;
          if (begin < whole.size())
            file.write_at(begin,
                          bytes_of(whole).subspan(begin, std::min(kPiece, whole.size() - begin)));
        }
      });
    }
  }
  EXPECT_FALSE(std::filesystem::exists(path));
  const std::string hash = file.commit();
  EXPECT_EQ(read_text_file(path), whole);
  EXPECT_EQ(hash, sha256_file(path));
}

TEST(HashedFile, GrowsWhileItIsWritten) {
  const TemporaryDirectory folder;
  HashedFile file(folder.path() / "abc", 0);
  EXPECT_THROW(file.write_at(0, bytes_of("a")), InternalError);
  file.grow(2);
  file.write_at(1, bytes_of("b"));
  file.write_at(0, bytes_of("a"));
  file.grow(1);
  EXPECT_THROW(file.commit(), InternalError);
  file.write_at(2, bytes_of("c"));
  EXPECT_EQ(file.commit(), kAbc);
  EXPECT_EQ(read_text_file(folder.path() / "abc"), "abc");
}

TEST(HashedFile, IsNotCommittedWithAHole) {
  const TemporaryDirectory folder;
  {
    HashedFile file(folder.path() / "file", 10);
    file.write_at(0, bytes_of("abc"));
    file.write_at(4, bytes_of("efghij"));
    EXPECT_THROW(file.write_at(8, bytes_of("xyz")), InternalError);
    EXPECT_THROW(file.commit(), InternalError);
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(HashedFile, MayBeEmpty) {
  const TemporaryDirectory folder;
  HashedFile file(folder.path() / "empty", 0);
  const std::string hash = file.commit();
  EXPECT_EQ(hash, sha256_file(folder.path() / "empty"));
}

}  // namespace
}  // namespace quern::test
