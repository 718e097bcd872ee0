#include "pipeline/data/sampling.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/pipeline/data/test_files.h"
#include "tests/support/paths.h"

namespace quern::test {
namespace {

TEST(SplitMix64, IsThePublishedGenerator) {
  SplitMix64 random(1234567);  // the reference values of the algorithm's authors
  EXPECT_EQ(random.next(), 6457827717110365317ULL);
  EXPECT_EQ(random.next(), 3203168211198807973ULL);
  EXPECT_EQ(random.next(), 9817491932198370423ULL);
}

TEST(SplitMix64, BelowStaysBelowAndReachesAll) {
  SplitMix64 random(7);
  std::set<std::uint64_t> seen;
  for (int i = 0; i < 200; ++i) seen.insert(random.below(5));
  EXPECT_EQ(seen, (std::set<std::uint64_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(random.below(1), 0u);
}

TEST(RandomStarts, NeverOverlapAndStayInside) {
  SplitMix64 random(3);
  for (const std::int64_t size : {40, 41, 57, 1000}) {
    const auto starts = random_starts(size, 10, 4, random);
    ASSERT_EQ(starts.size(), 4u);
    EXPECT_GE(starts.front(), 0);
    EXPECT_LE(starts.back() + 10, size);
    for (std::size_t i = 1; i < starts.size(); ++i) EXPECT_GE(starts[i], starts[i - 1] + 10);
  }
}

class ShuffledDocumentsTest : public testing::Test {
 protected:
  ShuffledDocumentsTest() {
    std::string lines;
    for (int i = 0; i < 100; ++i) lines += "{\"text\": \"document " + std::to_string(i) + "\"}\n";
    config_.source = {write_file(directory_.path() / "a.jsonl", lines)};
  }
  std::vector<std::string> order(std::uint64_t seed, std::size_t pool, std::size_t least = 0) {
    ShuffledDocuments documents(config_, seed, least, pool);
    std::vector<std::string> texts;
    for (std::string text; documents.next(text);) texts.push_back(text);
    return texts;
  }
  TemporaryDirectory directory_;
  TextConfig config_;
};

TEST_F(ShuffledDocumentsTest, EveryDocumentOnceInARandomOrder) {
  const auto texts = order(0, 1000);
  EXPECT_EQ(std::set<std::string>(texts.begin(), texts.end()).size(), 100u);
  EXPECT_EQ(texts.size(), 100u);
  EXPECT_FALSE(std::ranges::is_sorted(texts));
  EXPECT_NE(texts, order(1, 1000));
}

TEST_F(ShuffledDocumentsTest, TheOrderDoesNotDependOnThePool) {
  const auto texts = order(42, 1000);
  for (const std::size_t pool : {1u, 7u, 99u, 100u}) EXPECT_EQ(order(42, pool), texts) << pool;
  config_.max_characters = 1'000'000;  // another way of reading, the same documents
  EXPECT_EQ(order(42, 7), texts);
}

TEST_F(ShuffledDocumentsTest, ShortLinesArePassedOver) {
  EXPECT_EQ(order(0, 1000, 23).size(), 90u);  // {"text": "document 7"} has 22 bytes
}

TEST_F(ShuffledDocumentsTest, OnlyWhatIsGivenIsParsed) {
  write_file(config_.source[0], "{\"text\": \"a\"}\n{broken\n");
  ShuffledDocuments documents(config_, 0, 0, 10);
  std::string text;
  EXPECT_THAT(message_of<InputError>([&] {
                while (documents.next(text)) {
                }
              }),
              testing::HasSubstr("a.jsonl:2"));
}

}  // namespace
}  // namespace quern::test
