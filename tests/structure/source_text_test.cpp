#include "tests/structure/source_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace quern::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

std::vector<std::string> function_names(std::string_view text) {
  std::vector<std::string> names;
  for (const FunctionBody& body : find_functions(parse_source(text).code)) {
    names.push_back(body.name);
  }
  return names;
}

TEST(SourceText, KeepsLengthAndLinesOfTheFile) {
  const std::string text = "int a; // one\n/* two\n three */ char b = 'x';\nauto c = \"four\";";
  const SourceText source = parse_source(text);
  EXPECT_EQ(source.code, "int a;       \n      \n          char b = ' ';\nauto c = \"    \";");
  EXPECT_EQ(source.comments.size(), text.size());
  EXPECT_THAT(source.comments, HasSubstr("two\n three"));
  EXPECT_THAT(source.comments, Not(HasSubstr("int")));
  EXPECT_EQ(source.length_lines, 4);
  EXPECT_EQ(line_of(source.code, source.code.find("auto")), 4);
}

TEST(SourceText, DoesNotMistakeLiteralsForComments) {
  EXPECT_EQ(parse_source(R"x(f("// no", '"', '\'', "\"/*"); g();)x").code,
            R"x(f("     ", ' ', '  ', "    "); g();)x");
  EXPECT_EQ(parse_source("int n = 1'000'000; // '").code, "int n = 1'000'000;     ");
  EXPECT_EQ(parse_source("auto t = R\"ab(\" // {)ab\"; int k;").code,
            "auto t = R\"            \"; int k;");
}

TEST(SourceText, EndsWithTheFileWhenUnfinished) {
  for (const char* text :
       {"/* open", "\"open", "R\"(open", "R\"open", "'", "\"\\", "", "\n", "//\\"}) {
    EXPECT_EQ(parse_source(text).code.size(), std::string_view(text).size()) << text;
  }
  for (const char* text : {"void f() {", "f(", "}", "{", "template <", "class", "int f() : a{"}) {
    EXPECT_NO_THROW(find_functions(text)) << text;
  }
}

TEST(SourceText, FindsIncludesButNotQuotedOnes) {
  const SourceText source = parse_source(
      "#include \"a/b.h\"\n  #  include <mpi.h>\n// #include <no.h>\n"
      "auto t = R\"(\n#include <no.h>\n)\";\n#include MACRO\n");
  ASSERT_EQ(source.includes.size(), 2U);
  EXPECT_EQ(source.includes[0].path, "a/b.h");
  EXPECT_TRUE(source.includes[0].quoted);
  EXPECT_EQ(source.includes[1].path, "mpi.h");
  EXPECT_EQ(source.includes[1].line, 2);
  EXPECT_FALSE(source.includes[1].quoted);
}

TEST(FindFunctions, LooksIntoNamespacesAndClasses) {
  EXPECT_THAT(function_names(R"x(
    namespace a::b { namespace {
    struct alignas(64) S final : T<int(int)> { int x() const noexcept { return 1; } };
    template <class T = int, bool B = (1 > 0)> class C { public: C() = default; void y() {} };
    union { int u; };
    } }
    extern "C" { void z() {} }
    struct stat status(int fd) { return {}; }
    [[nodiscard]] auto w(int a = {}) -> int { if (a) { } return a; })x"),
              ElementsAre("x", "y", "z", "status", "w"));
}

TEST(FindFunctions, PassesOverData) {
  EXPECT_THAT(function_names(R"x(
    constexpr int kTable[] = {1, 2, 3};
    const std::vector<int> kValues{f(1), f(2)};
    enum class E : int { a, b };
    auto kLambda = [](int x) { return x; };
    template <class T> concept C = requires(T t) { t.x(); };
    void declared(Options o = {}, int b = 3);
    INSTANTIATE(All, Suite, Values(A{1}, [] { return A{2}; }));
    int last() { return 0; })x"),
              ElementsAre("last"));
}

TEST(FindFunctions, TellsAConstructorsBodyFromItsMembers) {
  EXPECT_THAT(function_names("A::A(int x) noexcept : B<int>{x}, a_{x}, b_(x), c_{{1}} { g(); }\n"
                             "A::A() : a_(1) {}\nA::~A() { h(); }\nbool p() { return x ? y : z; }"),
              ElementsAre("A::A", "A::A", "A::~A", "p"));
}

TEST(FindFunctions, KnowsOperators) {
  EXPECT_THAT(function_names("bool operator==(A a, A b) { return true; }\n"
                             "A& A::operator=(A a) { return *this; }\n"
                             "auto operator<=>(A a, B b) { return 0; }\n"
                             "int A::operator[](int i) const { return i; }"),
              testing::SizeIs(4));
}

TEST(FindFunctions, CountsTheLinesBetweenTheBraces) {
  const auto found = find_functions(
      "int a() { return 1; }\nint b()\n{\n  int x;\n  auto f = [] {\n  };\n#define C }\n}\nint c() "
      "{\n}");
  ASSERT_EQ(found.size(), 3U);
  EXPECT_EQ(found[0].length_lines, 0);
  EXPECT_EQ(found[1].length_lines, 4);
  EXPECT_EQ(found[1].line, 3);
  EXPECT_EQ(found[2].length_lines, 0);
}

}  // namespace
}  // namespace quern::test
