#include "workers/files/json_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "kernels/core/error.h"
#include "tests/support/paths.h"

namespace quern::test {
namespace {

using namespace std::string_literals;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string message_of(const std::string& text) {
  try {
    parse_json(text, "f.json");
  } catch (const InputError& error) {
    return error.what();
  }
  return "accepted";
}

struct BadText {
  const char* name;
  std::string text;
  const char* place;   ///< line:column
  const char* reason;  ///< a part of the message
};

class BadJson : public ::testing::TestWithParam<BadText> {};

TEST_P(BadJson, IsRejectedWithItsPlace) {
  const BadText& bad = GetParam();
  EXPECT_THAT(message_of(bad.text),
              AllOf(StartsWith("f.json:" + std::string(bad.place) + ": "), HasSubstr(bad.reason)));
}

INSTANTIATE_TEST_SUITE_P(
    Texts, BadJson,
    ::testing::Values(
        BadText{"Empty", "", "1:1", "end of input"},
        BadText{"Blank", " \n\n ", "3:2", "end of input"},
        BadText{"OpenObject", "{", "1:2", "end of input"},
        BadText{"OpenArray", "[1,\n2", "2:2", "expected ']'"},
        BadText{"OpenString", "{\"a\": \"xyz", "1:11", "missing closing quote"},
        BadText{"TrailingText", "{}\n{", "2:1", "expected end of input"},
        BadText{"TrailingCommaInArray", "[1,]", "1:4", "unexpected ']'"},
        BadText{"TrailingCommaInObject", "{\"a\":1,}", "1:8", "unexpected '}'"},
        BadText{"NoColon", "{\"a\" 1}", "1:6", "last key read: \"a\""},
        BadText{"NoComma", "{\"a\":1\n \"b\":2}", "2:4", "expected '}'"},
        BadText{"KeyIsNumber", "{1:2}", "1:2", "expected string literal"},
        BadText{"SingleQuotes", "{'a':1}", "1:2", "invalid literal"},
        BadText{"Comment", "{} // no", "1:4", "invalid literal"},
        BadText{"NotANumber", "[NaN]", "1:2", "invalid literal"},
        BadText{"Infinity", "[1, -Infinity]", "1:6", "expected digit after '-'"},
        BadText{"TooLargeNumber", "{\"a\":\n1e400}", "2:5", "number overflow"},
        BadText{"LeadingZero", "[01]", "1:3", "number literal"},
        BadText{"LeadingPlus", "[+1]", "1:2", "invalid literal"},
        BadText{"NoDigitAfterPoint", "[1.]", "1:4", "expected digit after '.'"},
        BadText{"CutLiteral", "tru", "1:4", "invalid literal"},
        BadText{"WrongCase", "True", "1:1", "invalid literal"},
        BadText{"RawNewlineInString", "[\"a\nb\"]", "1:4", "control character"},
        BadText{"UnknownEscape", "[\"\\x41\"]", "1:4", "forbidden character after backslash"},
        BadText{"LoneHighSurrogate", "[\"\\ud800\"]", "1:9", "surrogate"},
        BadText{"LoneLowSurrogate", "[\"\\udc00\"]", "1:8", "surrogate"},
        BadText{"InvalidUtf8", "[\"a\xFF\"]", "1:4", "ill-formed UTF-8"},
        BadText{"OverlongUtf8", "[\"\xC0\xAF\"]", "1:3", "ill-formed UTF-8"},
        BadText{"SurrogateInUtf8", "[\"\xED\xA0\x80\"]", "1:4", "ill-formed UTF-8"},
        BadText{"CutUtf8", "[\"\xE2\x82\"]", "1:5", "ill-formed UTF-8"},
        BadText{"NulAfterText", "{}\0{}"s, "1:3", "NUL"},
        BadText{"NulInString", "[\"a\n\0\"]"s, "2:1", "NUL"},
        BadText{"DuplicateKey", "{\"a\":1,\n  \"a\":2}", "2:3", "\"a\" appears twice"},
        BadText{"DuplicateEscapedKey", "{\"b\":1,\"\\u0062\":2}", "1:8", "\"b\" appears twice"},
        BadText{"DuplicateKeyWithQuote", R"({"a\"\\":1, "a\"\\":2})", "1:13", "appears twice"},
        BadText{"DuplicateEmptyKey", "{\"\":1,\"\":2}", "1:7", "\"\" appears twice"},
        BadText{"DuplicateInnerKey", "{\"x\":[{\"y\":0,\"y\":0}]}", "1:14", "\"y\" appears twice"}),
    [](const auto& test) { return test.param.name; });

TEST(ParseJson, KeepsValues) {
  const nlohmann::json value = parse_json(
      R"({"whole": 18446744073709551615, "negative": -9223372036854775808, "real": 2.5e-3,
          "text": "\u00e9\ud83d\ude00\n", "none": null, "yes": true, "list": [[], {}, [1, [2]]]})",
      "f.json");
  EXPECT_EQ(value["whole"].get<std::uint64_t>(), 18446744073709551615U);
  EXPECT_EQ(value["negative"].get<std::int64_t>(), std::numeric_limits<std::int64_t>::min());
  EXPECT_EQ(value["real"].get<double>(), 0.0025);
  EXPECT_EQ(value["text"].get<std::string>(), "\xC3\xA9\xF0\x9F\x98\x80\n");
  EXPECT_TRUE(value["none"].is_null());
  EXPECT_TRUE(value["yes"].get<bool>());
  EXPECT_EQ(value["list"].size(), 3U);
  EXPECT_EQ(value["list"][2][1][0].get<int>(), 2);
  EXPECT_TRUE(value["list"][1].is_object());
}

TEST(ParseJson, AcceptsEqualKeysInDifferentObjects) {
  EXPECT_EQ(parse_json(R"({"a": {"a": 1}, "b": [{"a": 2}, {"a": 3}]})", "f.json")["b"][1]["a"], 3);
}

TEST(ParseJson, AcceptsScalarsAndSurroundingSpace) {
  EXPECT_EQ(parse_json(" \r\n\t7 ", "f.json"), 7);
  EXPECT_EQ(parse_json("\"x\"", "f.json"), "x");
}

TEST(ParseJson, AllowsDepth64AndNoMore) {
  const std::string deep = std::string(64, '[') + std::string(64, ']');
  EXPECT_NO_THROW(parse_json(deep, "f.json"));
  EXPECT_THAT(message_of("[" + deep + "]"),
              AllOf(StartsWith("f.json:1:65: "), HasSubstr("deeper than 64")));
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"k\":";
  EXPECT_THAT(message_of(objects), HasSubstr("last key read: \"k\""));
}

TEST(ParseJson, ShortensWhatItQuotes) {
  std::string key;
  for (int i = 0; i < 10'000; ++i) key += "\xC3\xA9";
  const std::string message = message_of("{\"" + key + "\":0,\"" + key + "\":0}");
  EXPECT_LT(message.size(), 300U);
  EXPECT_NO_THROW(nlohmann::json(message).dump()) << "a character was cut in two";
  EXPECT_LT(message_of("[1" + std::string(10'000, '0') + "e400]").size(), 300U);
}

TEST(ReadJsonFile, NamesTheFile) {
  const TemporaryDirectory folder;
  const auto path = folder.path() / "config.json";
  std::ofstream(path) << "{\n\"a\": 1,\n\"a\": 2}";
  try {
    read_json_file(path);
    FAIL() << "accepted";
  } catch (const InputError& error) {
    EXPECT_THAT(error.what(), StartsWith(path.string() + ":3:1: "));
  }
  std::ofstream(path) << R"({"a": 1})";
  EXPECT_EQ(read_json_file(path)["a"], 1);
}

TEST(ReadJsonFile, MissingFileIsInputError) {
  EXPECT_THROW(read_json_file("no-such-folder/config.json"), InputError);
}

TEST(ReadJsonFile, ReadsTokenizers) {
  if (shared_dir().empty()) GTEST_SKIP() << kNoShared;
  const auto models = shared_dir() / "models";
  EXPECT_EQ(read_json_file(models / "llama20m/tokenizer.json")["model"]["vocab"].size(), 8192U);
  EXPECT_EQ(read_json_file(models / "llama3m/tokenizer.json")["model"]["vocab"].size(), 4096U);
}

}  // namespace
}  // namespace quern::test
