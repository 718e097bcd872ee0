#include "workers/files/hashed_file.h"

#include <gtest/gtest.h>

#include <string>

#include "tests/support/paths.h"

namespace quern::test {
namespace {

// FIPS 180-2, appendix B.
constexpr std::string_view kAbc =
    "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
constexpr std::string_view kMillionTimesA =
    "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";

TEST(HashedFile, GivesTheStandardsValues) {
  const TemporaryDirectory folder;
  HashedFile abc(folder.path() / "abc");
  abc.write("a");
  abc.write("");
  abc.write("bc");
  EXPECT_EQ(abc.commit(), kAbc);
  EXPECT_EQ(read_text_file(folder.path() / "abc"), "abc");
  HashedFile many(folder.path() / "many");
  for (int i = 0; i < 10; ++i) many.write(std::string(100000, 'a'));
  EXPECT_EQ(many.commit(), kMillionTimesA);
}

TEST(HashedFile, AgreesWithTheFileItWrote) {
  const TemporaryDirectory folder;
  const std::filesystem::path path = folder.path() / "large";
  HashedFile file(path);
  std::string written;
  for (const std::size_t bytes : {5U << 20, 17U, 3U << 20, (1U << 20) - 1U, 1U << 20}) {
    std::string piece(bytes, '\0');
    for (std::size_t i = 0; i < bytes; ++i) piece[i] = static_cast<char>(i * i >> 3);
    file.write(piece);
    written += piece;
  }
  EXPECT_FALSE(std::filesystem::exists(path));
  const std::string hash = file.commit();
  EXPECT_EQ(read_text_file(path), written);
  EXPECT_EQ(hash, sha256_file(path));
}

}  // namespace
}  // namespace quern::test
