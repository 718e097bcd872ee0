#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>

#include "tests/pipeline/config/run_texts.h"

namespace quern::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

std::string repeated(const std::string& text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all += text;
  return all;
}

TEST(Hostile, DuplicateKeys) {
  EXPECT_THAT(complaint(run_text("quantize:\n  bits: 4\n  bits: 3\n")),
              AllOf(StartsWith("run.yaml:7:3: quantize.bits: set twice, first at line 6"),
                    HasSubstr("remove one")));
  EXPECT_THAT(complaint(run_text("model: {path: b}\n")),
              StartsWith("run.yaml:5:1: model: set twice, first at line 1"));
  EXPECT_THAT(complaint(run_text("quantize: {rules: [{match: a, bits: 3, \"bits\": 4}]}\n")),
              StartsWith("run.yaml:5:40: quantize.rules[0].bits: set twice"));
}

TEST(Hostile, AnchorsAliasesTagsAndMergeKeys) {
  EXPECT_THAT(complaint("model: &m {path: a}\noutput: *m\n"),
              AllOf(StartsWith("run.yaml:1:"), HasSubstr("model: a YAML anchor")));
  EXPECT_THAT(complaint("a: &a [x,x,x]\nb: &b [*a,*a,*a]\nc: [*b,*b,*b]\n"),
              HasSubstr("anchor ('&name') is not allowed"));
  EXPECT_THAT(complaint("model: *nobody\n"), HasSubstr("run.yaml:1:8: "));
  EXPECT_THAT(complaint(run_text("quantize: {<<: {bits: 3}}\n")),
              StartsWith("run.yaml:5:12: quantize: a YAML merge key"));
  EXPECT_THAT(complaint(run_text("quantize: {bits: !!int 4}\n")),
              AllOf(StartsWith("run.yaml:5:18: quantize.bits: a YAML tag"), HasSubstr("remove")));
  EXPECT_THAT(complaint(run_text("quantize: !evil {bits: 4}\n")), HasSubstr("a YAML tag"));
}

TEST(Hostile, DepthIsBounded) {
  for (const std::string& text :
       {repeated("- ", 200'000), "a: " + repeated("[", 5'000) + repeated("]", 5'000),
        "a: " + repeated("{a: ", 500) + repeated("}", 500),
        "quantize: " + repeated("[[", 17) + repeated("]]", 17)}) {
    EXPECT_THAT(complaint(text), HasSubstr("nested more than 32 deep")) << text.substr(0, 20);
  }
  for (const char* opening : {"[", "{a: ", "? ", "[{", "a: ["}) {
    EXPECT_NE(complaint(repeated(opening, 100'000)), "") << opening;
  }
  EXPECT_NE(complaint(run_text(), {"quantize.bits=" + std::string(100'000, '[')}), "");
  EXPECT_NE(complaint(run_text(), {"quantize" + repeated(".a", 100'000) + "=1"}), "");
}

TEST(Hostile, SizeIsBounded) {
  EXPECT_THAT(complaint(run_text("#" + std::string(1 << 20, ' '))),
              AllOf(StartsWith("run.yaml:1:1: "), HasSubstr("at most 1048576")));
  EXPECT_EQ(complaint(run_text("#" + std::string(1'000'000, ' '))), "");
  std::string keys;
  for (int i = 0; i < 60'000; ++i) keys += fmt::format("k{}: 1\n", i);
  EXPECT_THAT(complaint(run_text(keys)), StartsWith("run.yaml:5:1: k0: unknown key"));
}

TEST(Hostile, Documents) {
  EXPECT_THAT(complaint(run_text("---\nmodel: {path: b}\n")), HasSubstr("a second YAML document"));
  EXPECT_THAT(complaint(run_text("...\n--- {}\n")), HasSubstr("a second YAML document"));
  EXPECT_EQ(complaint("---\n" + run_text("...\n")), "");
  EXPECT_THAT(complaint(run_text("quantize: {bits: 4\n")), HasSubstr("not valid YAML"));
  EXPECT_THAT(complaint(run_text("quantize: {method: \"gptq}\n")), HasSubstr("not valid YAML"));
  EXPECT_THAT(complaint(run_text("? [a, b]\n: 3\n")),
              HasSubstr("a list or mapping in place of a key"));
  EXPECT_THAT(complaint(run_text("quantize: {~: 3}\n")), HasSubstr("a key is empty"));
}

TEST(Hostile, Characters) {
  EXPECT_THAT(complaint(run_text("quantize:\n\tbits: 4\n")),
              StartsWith("run.yaml:6:1: a tab in the indentation; expected spaces"));
  EXPECT_THAT(complaint(run_text("quantize:\n  \tbits: 4\n")), StartsWith("run.yaml:6:3: a tab"));
  EXPECT_THAT(complaint(run_text("# caf\xE9\n")),
              StartsWith("run.yaml:5:6: byte 0xe9 is not UTF-8"));
  EXPECT_THAT(complaint("\xFF\xFE" + run_text()), StartsWith("run.yaml:1:1: byte 0xff"));
  for (const char* bytes : {"\xC0\x80", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80",
                            "\xF8\x88\x80\x80\x80", "\xE2\x82", "\x80"}) {
    EXPECT_THAT(complaint(run_text(std::string("# ") + bytes)),
                StartsWith("run.yaml:5:3: byte 0x"));
  }
  EXPECT_EQ(complaint(run_text("# \xE2\x82\xAC \xF0\x9F\x98\x80 \xC3\xA9\n")), "");
  EXPECT_THAT(complaint(run_text(std::string("# a\0b\n", 6))),
              StartsWith("run.yaml:5:4: control character 0x00"));
  EXPECT_THAT(complaint(run_text("# a\x1B[31m\n")), HasSubstr("control character 0x1b"));
}

TEST(Hostile, MessagesStayShortAndPrintable) {
  const std::string message =
      complaint(run_text("quantize: {bits: " + std::string(5000, 'x') + "}"));
  EXPECT_LT(message.size(), 300U);
  EXPECT_THAT(message, HasSubstr("xxx...'"));
  EXPECT_THAT(complaint(run_text("\"a\\nb\\u001b\": 1\n")), HasSubstr("5:1: a?b?: unknown key"));
  EXPECT_LT(complaint(run_text(std::string(900, 'k') + ": 1\n")).size(), 300U);
}

/// Whatever the bytes, parsing ends in values or in a ConfigError with a place.
TEST(Hostile, DamagedFiles) {
  const std::string whole = run_text(
      "quantize:\n  bits: 4\n  rules:\n    - {match: '.*\\.q_proj', bits: 8, group_size: 64}\n"
      "evaluate: {source: [a, \"b\"], samples: 3}\n");
  std::mt19937 random(7);
  const std::string signs = "{}[]:,-?&*!|>'\"%@`#\n \t\\~<=.09ae\xC3\xFF";
  for (int round = 0; round < 3000; ++round) {
    std::string text = whole.substr(0, 1 + random() % whole.size());
    for (unsigned edits = random() % 4; edits > 0; --edits) {
      text.insert(random() % text.size(), 1, signs[random() % signs.size()]);
    }
    const std::string message = complaint(text);
    EXPECT_THAT(message, testing::AnyOf("", StartsWith("run.yaml:"))) << text;
  }
}

}  // namespace
}  // namespace quern::test
