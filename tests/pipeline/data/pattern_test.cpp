#include "pipeline/data/pattern.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "pipeline/data/pattern_syntax.h"
#include "tests/pipeline/data/test_files.h"

namespace quern::test {
namespace {

std::string marked(std::string_view expression, std::string_view text) {
  PatternMatcher matcher(Pattern::regex(expression));
  std::string out;
  for (const auto& [span, is_match] : matcher.pieces(text)) {
    out += fmt::format(fmt::runtime(is_match ? "[{}]" : "{}"), span.of(text));
  }
  return out;
}

TEST(Pattern, MeansWhatOnigurumaMeans) {
  // U+180E is no white space, U+0085 is; superscript two is a word character, Kelvin folds to k.
  EXPECT_EQ(marked(R"(\s)", "a b\u0085c\u180ed"), "a[ ]b[\u0085]c\u180ed");
  EXPECT_EQ(marked(R"(\w+)", "a²_é!"), "[a²_é]!");
  EXPECT_EQ(marked(R"((?i:'s|k))", "'ſ K'S"), "['ſ] [K]['S]");
  EXPECT_EQ(marked(R"(\v)", "a\x0b\n"), "a[\x0b]\n");
  EXPECT_EQ(marked(R"(\p{Han}+)", "a漢字々、"), "a[漢字々]、");
  EXPECT_EQ(marked(R"(\p{^L})", "a1"), "a[1]");
  EXPECT_EQ(marked(R"(a{,2})", "aaa"), "[aa][a]");
  EXPECT_EQ(marked(R"([^\r\n\p{L}\p{N}]?+\p{L}+)", "x (y"), "[x] [(y]");
  EXPECT_EQ(marked(R"(\u00e9|\x41)", "éA"), "[é][A]");
}

TEST(Pattern, EmptyMatchesAdvanceByCharacters) {
  EXPECT_EQ(marked("x*", "éxb"), "[]é[x]b[]");
}

TEST(Pattern, LiteralsAreNotExpressions) {
  PatternMatcher matcher(Pattern::literal("a.+"));
  EXPECT_EQ(matcher.pieces("aaa.+").size(), 2u);
}

class RefusedPattern : public testing::TestWithParam<const char*> {};

TEST_P(RefusedPattern, IsNotGuessedAt) {
  EXPECT_THAT(message_of<InputError>([] { pcre2_from_oniguruma(GetParam()); }),
              testing::HasSubstr(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(Table, RefusedPattern,
                         testing::Values("a$", "^a", R"(\bx)", R"(\h)", R"(\R)", R"((a)\1)",
                                         "(?<n>a)", "(?i)a", "(?i:é)", "(?i:ss)", "(?i:a+)",
                                         R"([a[b]])", R"([[:alpha:]])", R"([a&&b])", R"([])",
                                         R"([\W])", "a{2}+", "a{2}?", "a**", "a{x}", R"(\p{Punct})",
                                         R"(\pL)", R"(\xff)", R"(\x{41)", R"(\)", "[a",
                                         "(*ACCEPT)"));

}  // namespace
}  // namespace quern::test
