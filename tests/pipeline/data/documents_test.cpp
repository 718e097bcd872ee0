#include "pipeline/data/documents.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include "pipeline/data/text.h"
#include "tests/pipeline/data/test_files.h"
#include "tests/support/paths.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;

std::string gzipped(const std::string& text) {
  z_stream stream{};
  deflateInit2(&stream, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string out(compressBound(text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

class DocumentsTest : public testing::Test {
 protected:
  fs::path write(const char* name, std::string_view contents) {
    return write_file(directory_.path() / name, contents);
  }
  std::vector<std::string> read(const TextConfig& config) {
    Documents documents(config);
    std::vector<std::string> texts;
    for (std::string text; documents.next(text);) texts.push_back(text);
    return texts;
  }
  std::string refusal(const TextConfig& config) {
    return message_of<InputError>([&] { read(config); });
  }
  TemporaryDirectory directory_;
};

using Texts = std::vector<std::string>;

TEST_F(DocumentsTest, FilesOfAllKindsInOrder) {
  const std::string lines = "{\"text\": \"one\", \"url\": 1}\r\n\n{\"text\": \"\\u00e9\"}\n";
  const TextConfig config{
      .source = {write("a.txt", "first\nfile"), write("b.jsonl", lines),
                 write("c.json.gz", gzipped(lines)),
                 write("d.jsonl.gz", gzipped(lines) + gzipped("{\"text\":\"last\"}"))}};
  EXPECT_EQ(read(config), (Texts{"first\nfile", "one", "é", "one", "é", "one", "é", "last"}));
}

TEST_F(DocumentsTest, AnotherField) {
  const fs::path file = write("a.jsonl", R"({"text": 1, "content": "x"})");
  EXPECT_EQ(read({.source = {file}, .field = "content"}), Texts{"x"});
  EXPECT_THAT(refusal({.source = {file}}),
              testing::HasSubstr("a.jsonl:1: text: expected a string"));
  EXPECT_THAT(refusal({.source = {file}, .field = "body"}),
              testing::HasSubstr("a.jsonl:1: there is no field \"body\""));
}

TEST_F(DocumentsTest, CharactersAreCountedAcrossTheJoinedText) {
  const fs::path text = write("a.txt", "äöüß");
  const fs::path lines = write("b.jsonl", "{\"text\": \"12345\"}\n{\"text\": \"never\"}\n");
  const auto limited = [&](std::int64_t characters) {
    return read({.source = {text, lines}, .max_characters = characters});
  };
  EXPECT_EQ(limited(3), Texts{"äöü"});
  EXPECT_EQ(limited(4), Texts{"äöüß"});
  EXPECT_EQ(limited(6), Texts{"äöüß"});  // two characters separate the documents
  EXPECT_EQ(limited(8), (Texts{"äöüß", "12"}));
  EXPECT_EQ(limited(11), (Texts{"äöüß", "12345"}));
}

TEST_F(DocumentsTest, ALongTextIsCutAtItsCharacters) {
  std::string text;
  for (int i = 0; i < 700'000; ++i) text += "é";  // more than one chunk
  const auto texts = read({.source = {write("a.txt", text)}, .max_characters = 600'001});
  ASSERT_EQ(texts.size(), 1u);
  EXPECT_EQ(texts[0], text.substr(0, 2 * 600'001));
}

TEST_F(DocumentsTest, LinesLongerThanABuffer) {
  const std::string text(3'000'000, 'x');
  const std::string line = "{\"text\": \"" + text + "\"}\n";
  EXPECT_EQ(read({.source = {write("a.jsonl.gz", gzipped(line + line))}}), (Texts{text, text}));
}

TEST_F(DocumentsTest, BadLineIsNamed) {
  EXPECT_THAT(refusal({.source = {write("a.jsonl", "{\"text\": \"x\"}\n\n{\"text\": \n")}}),
              testing::HasSubstr("a.jsonl:3"));
  EXPECT_THAT(refusal({.source = {write("b.jsonl", "[1]\n")}}),
              testing::HasSubstr("b.jsonl:1: expected an object"));
  EXPECT_THAT(refusal({.source = {write("c.jsonl", "{\"text\": \"\xff\"}")}}),
              testing::HasSubstr("c.jsonl:1: byte 10"));
}

TEST_F(DocumentsTest, InvalidTextIsNamed) {
  EXPECT_THAT(refusal({.source = {write("a.txt", "ab\xc3")}}), testing::HasSubstr("a.txt: byte 2"));
}

TEST_F(DocumentsTest, DamagedGzip) {
  std::string lines;
  for (int i = 0; i < 5000; ++i) lines += "{\"text\": \"line " + std::to_string(i * 7919) + "\"}\n";
  const std::string good = gzipped(lines);
  std::string flipped = good;
  flipped[good.size() / 2] = static_cast<char>(flipped[good.size() / 2] ^ 0x55);
  std::string checksum = good;
  checksum[good.size() - 6] = static_cast<char>(checksum[good.size() - 6] ^ 1);
  const std::string cut = good.substr(0, good.size() - 100);
  for (const std::string& bytes : {cut, checksum}) {
    EXPECT_THAT(refusal({.source = {write("a.jsonl.gz", bytes)}}),
                testing::HasSubstr("a.jsonl.gz: the gzip is damaged or cut off"));
  }
  EXPECT_THROW(read({.source = {write("b.jsonl.gz", flipped)}}), InputError);
  EXPECT_THAT(refusal({.source = {write("c.jsonl.gz", lines)}}),
              testing::HasSubstr("is not a gzip file"));
}

TEST_F(DocumentsTest, MissingAndUnknownFiles) {
  EXPECT_THAT(refusal({.source = {directory_.path() / "none.txt"}}),
              testing::HasSubstr("no such file"));
  EXPECT_THAT(refusal({.source = {directory_.path() / "none.jsonl"}}),
              testing::HasSubstr("no such file"));
  EXPECT_THAT(refusal({.source = {write("a.parquet", "PAR1")}}),
              testing::HasSubstr("unknown kind of text"));
}

}  // namespace
}  // namespace quern::test
