#include <gtest/gtest.h>

#include "pipeline/data/tokenizer.h"
#include "tests/pipeline/data/test_files.h"
#include "tests/support/paths.h"

namespace quern::test {
namespace {

using nlohmann::json;

/// A change to a good tokenizer.json, as a JSON merge patch, and what the refusal must say.
struct Refusal {
  const char* name;
  const char* patch;
  const char* says;
};

constexpr const char* kGood = R"({
  "version": "1.0", "truncation": null, "padding": null,
  "added_tokens": [{"id": 4, "content": "<s>", "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false, "special": true}],
  "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
  "model": {"type": "BPE", "dropout": null, "unk_token": null, "vocab": {"a": 0, "b": 1, "ab": 2,
            " ": 3}, "merges": [["a", "b"]]}})";

constexpr Refusal kRefusals[] = {
    {"UnknownNormalizer", R"({"normalizer": {"type": "Nmt"}})",
     "normalizer: the normalizer \"Nmt\""},
    {"NestedNormalizer",
     R"({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"},
         {"type": "Precompiled", "precompiled_charsmap": "x"}]}})",
     "normalizer.normalizers[1]: the normalizer \"Precompiled\""},
    {"StripAccents", R"({"normalizer": {"type": "StripAccents"}})", "not supported"},
    {"NormalizerField", R"({"normalizer": {"type": "NFC", "version": 9}})", "\"version\""},
    {"UnknownPreTokenizer", R"({"pre_tokenizer": {"type": "BertPreTokenizer"}})",
     "pre_tokenizer: the pre-tokenizer \"BertPreTokenizer\""},
    {"NoPreTokenizerType", R"({"pre_tokenizer": {}})", "pre_tokenizer: \"type\" is missing"},
    {"UnknownPostProcessor", R"({"post_processor": {"type": "Magic"}})",
     "post_processor: the post-processor \"Magic\""},
    {"TemplateWithB",
     R"({"post_processor": {"type": "TemplateProcessing", "special_tokens": {},
         "single": [{"Sequence": {"id": "B", "type_id": 0}}]}})",
     "post_processor.single[0].Sequence"},
    {"TemplateUnknownToken",
     R"({"post_processor": {"type": "TemplateProcessing", "special_tokens": {},
         "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]}})",
     "post_processor.special_tokens: \"<s>\" is missing"},
    {"TemplateIdOutside",
     R"({"post_processor": {"type": "TemplateProcessing",
         "special_tokens": {"<s>": {"id": "<s>", "ids": [77]}},
         "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]}})",
     "id 77"},
    {"Unigram", R"({"model": {"type": "Unigram"}})", "model.type: the model \"Unigram\""},
    {"WordPiece", R"({"model": {"type": "WordPiece"}})", "model.type: the model \"WordPiece\""},
    {"NoVocabulary", R"({"model": {"vocab": null}})", "model: \"vocab\" is missing"},
    {"VocabularyIsArray", R"({"model": {"vocab": [["a", 0]]}})", "model.vocab: expected an object"},
    {"NegativeId", R"({"model": {"vocab": {"b": -1}}})", "model.vocab: \"b\" has the id -1"},
    {"FractionId", R"({"model": {"vocab": {"b": 1.5}}})", "model.vocab: \"b\" has the id 1.5"},
    {"HugeId", R"({"model": {"vocab": {"b": 4000000000}}})", "has the id 4000000000"},
    {"DuplicateId", R"({"model": {"vocab": {"b": 0}}})", "have the same id 0"},
    {"NoMerges", R"({"model": {"merges": null}})", "model: \"merges\" is missing"},
    {"MergeOfUnknown", R"({"model": {"merges": [["a", "z"]]}})", "merge 0 needs the token \"z\""},
    {"MergeToUnknown", R"({"model": {"merges": [["b", "a"]]}})", "merge 0 needs the token \"ba\""},
    {"MergeOfThree", R"({"model": {"merges": ["a b a"]}})", "model.merges[0]: expected two tokens"},
    {"MergeOfOne", R"({"model": {"merges": [["a"]]}})", "model.merges[0]: expected a pair"},
    {"MergeIsNumber", R"({"model": {"merges": [7]}})", "model.merges[0]: expected a string"},
    {"Dropout", R"({"model": {"dropout": 0.1}})", "model.dropout"},
    {"UnknownModelField", R"({"model": {"shuffle": true}})", "model: \"shuffle\""},
    {"UnknownTopField", R"({"post_normalizer": {"type": "NFC"}})", "\"post_normalizer\""},
    {"BadRegex",
     R"({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated"}})",
     "pre_tokenizer.pattern.Regex: the regular expression (a does not compile"},
    {"AnchorRegex",
     R"({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "^a"}, "behavior": "Isolated"}})",
     "the anchor ^"},
    {"EmptyPattern",
     R"({"pre_tokenizer": {"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated"}})",
     "pre_tokenizer.pattern.String"},
    {"UnknownBehavior",
     R"({"pre_tokenizer": {"type": "Split", "pattern": {"String": "a"}, "behavior": "Lost"}})",
     "pre_tokenizer.behavior: the behavior \"Lost\""},
    {"ByteLevelWithoutPrefix", R"({"pre_tokenizer": {"type": "ByteLevel"}})",
     "\"add_prefix_space\" is missing"},
    {"LongReplacement", R"({"pre_tokenizer": {"type": "Metaspace", "replacement": "__"}})",
     "pre_tokenizer.replacement: expected one character"},
    {"ContradictingMetaspace",
     R"({"pre_tokenizer": {"type": "Metaspace", "replacement": "_", "prepend_scheme": "first",
         "add_prefix_space": false}})",
     "contradicts add_prefix_space"},
    {"FirstBehindNormalizer",
     R"({"normalizer": {"type": "Lowercase"},
         "pre_tokenizer": {"type": "Metaspace", "replacement": "_", "prepend_scheme": "first"}})",
     "prepend_scheme \"first\""},
    {"AddedTokenElsewhere", R"({"added_tokens": [{"id": 9, "content": "<s>", "special": true}]})",
     "added_tokens[0]: the added token \"<s>\" has id 9"},
    {"AddedTokenOtherId", R"({"added_tokens": [{"id": 1, "content": "ab", "special": true}]})",
     "the vocabulary gives it 2"},
    {"AddedTwice",
     R"({"added_tokens": [{"id": 4, "content": "<s>"}, {"id": 4, "content": "<s>"}]})",
     "added_tokens[1]: the token \"<s>\" is added twice"},
    {"AddedTokenVanishes",
     R"({"normalizer": {"type": "Strip", "strip_left": true, "strip_right": true},
         "added_tokens": [{"id": 3, "content": " ", "normalized": true}]})",
     "leaves nothing of the added token"},
    {"AddedTokenField", R"({"added_tokens": [{"id": 4, "content": "<s>", "regex": true}]})",
     "added_tokens[0]: \"regex\""},
};

class RefusedTokenizer : public testing::TestWithParam<Refusal> {};

TEST_P(RefusedTokenizer, NamesFileAndPlace) {
  json contents = json::parse(kGood);
  contents.merge_patch(json::parse(GetParam().patch));
  const TemporaryDirectory directory;
  write_file(directory.path() / "tokenizer.json", contents.dump());
  const std::string message = message_of<InputError>([&] { load_tokenizer(directory.path()); });
  EXPECT_THAT(message, testing::HasSubstr(GetParam().says));
  EXPECT_THAT(message, testing::HasSubstr(directory.path().string()));
}

INSTANTIATE_TEST_SUITE_P(Table, RefusedTokenizer, testing::ValuesIn(kRefusals),
                         [](const auto& refusal) { return refusal.param.name; });

class TokenizerFolder : public testing::Test {
 protected:
  std::string refusal() {
    return message_of<InputError>([&] { load_tokenizer(directory_.path()); });
  }
  void write(const char* name, const std::string& contents) {
    write_file(directory_.path() / name, contents);
  }
  TemporaryDirectory directory_;
};

TEST_F(TokenizerFolder, TheUnpatchedFileIsGood) {
  write("tokenizer.json", kGood);
  EXPECT_EQ(load_tokenizer(directory_.path())->encode("ab<s>a"),
            (std::vector<std::int32_t>{2, 4, 0}));
}

TEST_F(TokenizerFolder, EmptyFolder) {
  EXPECT_THAT(refusal(), testing::HasSubstr("neither"));
}

TEST_F(TokenizerFolder, SentencePieceOnly) {
  write("tokenizer.model", "x");
  EXPECT_THAT(refusal(), testing::HasSubstr("convert tokenizer.model"));
}

TEST_F(TokenizerFolder, CutOffFile) {
  write("tokenizer.json", std::string(kGood).substr(0, 200));
  EXPECT_THAT(refusal(), testing::HasSubstr("tokenizer.json:"));
}

TEST_F(TokenizerFolder, BosTokenWithoutName) {
  write("tokenizer.json", kGood);
  write("tokenizer_config.json", R"({"add_bos_token": true})");
  EXPECT_THAT(refusal(), testing::HasSubstr("tokenizer_config.json: add_bos_token: is true"));
}

TEST_F(TokenizerFolder, PrefixSpaceContradiction) {
  json contents = json::parse(kGood);
  contents["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  write("tokenizer.json", contents.dump());
  write("tokenizer_config.json", R"({"add_prefix_space": true})");
  EXPECT_THAT(refusal(), testing::HasSubstr("contradicts pre_tokenizer.add_prefix_space"));
}

TEST_F(TokenizerFolder, MergesFileNamesTheLine) {
  write("vocab.json", R"({"a": 0, "b": 1})");
  write("merges.txt", "#version: 0.2\na b c\n");
  EXPECT_THAT(refusal(), testing::HasSubstr("merges.txt:2: expected two tokens"));
}

TEST_F(TokenizerFolder, AddedTokensFileBesideVocabulary) {
  write("vocab.json", R"({"a": 0})");
  write("merges.txt", "");
  write("added_tokens.json", R"({"<x>": 1})");
  EXPECT_THAT(refusal(), testing::HasSubstr("added_tokens.json"));
}

TEST_F(TokenizerFolder, UnknownTokenThatIsNeededButMissing) {
  json contents = json::parse(kGood);
  contents["model"]["unk_token"] = "<unk>";
  write("tokenizer.json", contents.dump());
  const auto tokenizer = load_tokenizer(directory_.path());
  EXPECT_EQ(tokenizer->encode("ab").size(), 1u);
  EXPECT_THAT(message_of<InputError>([&] { tokenizer->encode("abz"); }),
              testing::HasSubstr("\"<unk>\" is not in its vocabulary"));
}

}  // namespace
}  // namespace quern::test
