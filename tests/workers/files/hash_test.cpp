#include "workers/files/hash.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "kernels/core/error.h"
#include "tests/support/message_of.h"
#include "tests/support/paths.h"

namespace quern::test {
namespace {

struct Reference {
  std::string text;
  std::string xxh3;
  std::string sha256;
};

std::string long_text() {
  std::string text((std::size_t{3} << 20) + 17, '\0');
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>((i * 7 + 3) % 251);
  return text;
}

/// Values from the Python packages xxhash and hashlib; lengths around XXH3's own thresholds.
std::vector<Reference> references() {
  return {{"", "99aa06d3014798d86001c324468d497f",
           "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
          {"abc", "06b05ab6733a618578af5f94892f3950",
           "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
          {std::string(1, '\0'), "a6cd5e9392000f6ac44bdff4074eecdb",
           "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"},
          {std::string(240, 'x'), "bfede978870834bedf2b586ca80bb7aa",
           "718df6704d8a06104f8188195d17166c1276cffc91da8c756b925d29dcc60a71"},
          {std::string(241, 'x'), "586c2f1b13edf30f14da9e5c301a6a1d",
           "7dbf05774ebc8b0213e8f74d789e344714ca95a03e019d92c8d48365045b7989"},
          {long_text(), "8fe603210525673a17326738b13b7fa4",
           "b94a81035474d847a7b5f270ed72d10d51a5643254d6495dce93e2022aa22ac7"}};
}

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

TEST(Hash, MatchesOtherImplementations) {
  const TemporaryDirectory directory;
  const auto path = directory.path() / "file";
  for (const Reference& reference : references()) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << reference.text;
    EXPECT_EQ(xxh3_hex(bytes_of(reference.text)), reference.xxh3);
    EXPECT_EQ(xxh3_file(path), reference.xxh3);
    EXPECT_EQ(sha256_file(path), reference.sha256);
  }
}

TEST(Hash, StreamDoesNotDependOnThePieces) {
  const std::string text(241, 'x');
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    Xxh3Stream stream;
    stream.update(bytes_of(text).first(cut));
    const std::string before = stream.hex();
    stream.update(bytes_of(text).subspan(cut));
    EXPECT_EQ(stream.hex(), "586c2f1b13edf30f14da9e5c301a6a1d");
    EXPECT_EQ(before, xxh3_hex(bytes_of(text).first(cut)));
  }
}

TEST(Hash, StreamMovesWithItsState) {
  Xxh3Stream stream;
  stream.update(bytes_of("ab"));
  Xxh3Stream moved = std::move(stream);
  moved.update(bytes_of("c"));
  EXPECT_EQ(moved.hex(), "06b05ab6733a618578af5f94892f3950");
}

TEST(Hash, UnreadableFilesAreNamed) {
  const TemporaryDirectory directory;
  const auto absent = directory.path() / "absent";
  using testing::AllOf;
  using testing::HasSubstr;
  EXPECT_THAT(message_of<InputError>([&] { xxh3_file(absent); }),
              AllOf(HasSubstr(absent.string()), HasSubstr("No such file")));
  EXPECT_THAT(message_of<InputError>([&] { sha256_file(directory.path()); }),
              AllOf(HasSubstr(directory.path().string()), HasSubstr("Is a directory")));
}

}  // namespace
}  // namespace quern::test
