#include "pipeline/data/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "tests/pipeline/data/test_files.h"
#include "tests/support/paths.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<std::int32_t>;

constexpr std::array kModels{"llama3m", "llama20m", "mistral9m", "opt7m", "deepseek11m-fp8"};

class GoldenTokenizer : public testing::TestWithParam<const char*> {};

TEST_P(GoldenTokenizer, EqualsTransformers) {
  if (shared_dir().empty()) GTEST_SKIP() << kNoShared;
  const auto tokenizer = load_tokenizer(shared_dir() / "models" / GetParam());
  const auto golden = read_json(shared_dir() / "golden" / (std::string(GetParam()) + ".json"));
  ASSERT_GT(golden["tokenizer"].size(), 30u);
  for (const auto& example : golden["tokenizer"]) {
    const auto text = example["text"].get<std::string>();
    EXPECT_EQ(tokenizer->encode(text), example["ids"].get<Ids>()) << text;
    EXPECT_EQ(tokenizer->encode_with_special(text), example["with_special"].get<Ids>()) << text;
  }
  Ids ids = tokenizer->encode(read_file(shared_dir() / "data" / "eval.txt"));
  ids.resize(1000);
  EXPECT_EQ(ids, golden["eval_first_1000_ids"].get<Ids>());
}

TEST_P(GoldenTokenizer, KnowsBeginOfSequence) {
  if (shared_dir().empty()) GTEST_SKIP() << kNoShared;
  const fs::path folder = shared_dir() / "models" / GetParam();
  const auto tokenizer = load_tokenizer(folder);
  const auto config = read_json(folder / "config.json");
  EXPECT_EQ(tokenizer->bos_id(), config["bos_token_id"].get<std::int32_t>());
  EXPECT_TRUE(tokenizer->adds_bos());
  EXPECT_EQ(tokenizer->vocab_size(), config["vocab_size"].get<std::int64_t>());
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenTokenizer, testing::ValuesIn(kModels),
                         [](const auto& model) {
                           std::string name = model.param;
                           std::erase(name, '-');
                           return name;
                         });

/// Ids that Hugging Face tokenizers 0.23 gives for small vocabularies of every kind.
std::vector<std::string> frozen_names() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(source_dir() / "tests/data/tokenizers")) {
    if (entry.path().stem() != "texts") names.push_back(entry.path().stem().string());
  }
  std::ranges::sort(names);
  return names;
}

class FrozenTokenizer : public testing::TestWithParam<std::string> {};

TEST_P(FrozenTokenizer, EqualsTheLibrary) {
  const fs::path folder = source_dir() / "tests/data/tokenizers";
  const auto texts = read_json(folder / "texts.json");
  const auto frozen = read_json(folder / (GetParam() + ".json"));
  const TemporaryDirectory directory;
  write_file(directory.path() / "tokenizer.json", frozen["tokenizer"].dump());
  const auto tokenizer = load_tokenizer(directory.path());
  ASSERT_EQ(frozen["ids"].size(), texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const auto text = texts[i].get<std::string>();
    EXPECT_EQ(tokenizer->encode(text), frozen["ids"][i].get<Ids>()) << text;
  }
  for (std::size_t i = 0; i < frozen["with_special"].size(); ++i) {
    EXPECT_EQ(tokenizer->encode_with_special(texts[i].get<std::string>()),
              frozen["with_special"][i].get<Ids>());
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, FrozenTokenizer, testing::ValuesIn(frozen_names()),
                         [](const auto& kind) {
                           std::string name = kind.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

fs::path small_model() {
  return source_dir() / "tests/data/llama3m";
}

TEST(Tokenizer, InvalidUtf8IsRefusedWithItsOffset) {
  const auto tokenizer = load_tokenizer(small_model());
  for (const std::string_view bad : {"ab\xff", "ab\xc0\x80", "ab\xed\xa0\x80", "ab\xe4\xb8"}) {
    EXPECT_THAT(message_of<InputError>([&] { tokenizer->encode(bad); }),
                testing::HasSubstr("byte 2 "));
  }
}

TEST(Tokenizer, TokensAreFoundById) {
  const auto tokenizer = load_tokenizer(small_model());
  EXPECT_EQ(tokenizer->token(0), "<|begin_of_text|>");
  EXPECT_EQ(tokenizer->token(-1), "");
  EXPECT_EQ(tokenizer->token(1 << 20), "");
}

TEST(Tokenizer, ConfigOverrulesThePostProcessor) {
  const TemporaryDirectory directory;
  fs::copy_file(small_model() / "tokenizer.json", directory.path() / "tokenizer.json");
  const fs::path config = directory.path() / "tokenizer_config.json";
  write_file(config, R"({"bos_token": {"content": "<|begin_of_text|>"}, "add_bos_token": false})");
  EXPECT_FALSE(load_tokenizer(directory.path())->adds_bos());
  EXPECT_EQ(load_tokenizer(directory.path())->bos_id(), 0);
  write_file(config, R"({"bos_token": "<|end_of_text|>", "eos_token": "<|end_of_text|>",
                         "add_bos_token": true, "add_eos_token": true})");
  EXPECT_EQ(load_tokenizer(directory.path())->encode_with_special(""), (Ids{1, 0, 1}));
}

TEST(Tokenizer, WithoutConfigTheTemplateNamesBeginOfSequence) {
  const TemporaryDirectory directory;
  fs::copy_file(small_model() / "tokenizer.json", directory.path() / "tokenizer.json");
  const auto tokenizer = load_tokenizer(directory.path());
  EXPECT_EQ(tokenizer->bos_id(), 0);
  EXPECT_TRUE(tokenizer->adds_bos());
}

TEST(Tokenizer, OneHugeWordIsTheSameAsItsParts) {
  // Every pair "ab" merges once and nothing crosses: 200,000 characters in one word.
  const TemporaryDirectory directory;
  write_file(directory.path() / "tokenizer.json",
             R"({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "aba": 3},
                 "merges": ["a b", "ab a"]}})");
  std::string text;
  for (int i = 0; i < 100'000; ++i) text += "ab";
  const Ids ids = load_tokenizer(directory.path())->encode(text);
  // Lowest rank first: all "ab", then "aba" cannot form as no "a" is left.
  EXPECT_EQ(ids, Ids(100'000, 2));
}

TEST(Tokenizer, MergesGoByRankAndThenFromTheLeft) {
  const TemporaryDirectory directory;
  write_file(directory.path() / "tokenizer.json",
             R"({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "aa": 2, "ab": 3, "aab": 4},
                 "merges": [["a", "b"], ["a", "a"], ["a", "ab"]]}})");
  const auto tokenizer = load_tokenizer(directory.path());
  EXPECT_EQ(tokenizer->encode("aaab"), (Ids{2, 3}));
  EXPECT_EQ(tokenizer->encode("aab"), (Ids{4}));
  EXPECT_EQ(tokenizer->encode("aaa"), (Ids{2, 0}));
}

}  // namespace
}  // namespace quern::test
