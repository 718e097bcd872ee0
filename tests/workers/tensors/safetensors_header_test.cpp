#include "workers/tensors/safetensors_header.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "kernels/core/error.h"
#include "tests/support/message_of.h"
#include "tests/support/paths.h"
#include "tests/workers/tensors/safetensors_bytes.h"
#include "workers/tensors/safetensors.h"

namespace quern::test {
namespace {

using namespace std::literals;
using ::testing::HasSubstr;

struct HostileFile {
  const char* name;
  std::string bytes;
  std::vector<const char*> fragments;  ///< parts of the message, besides the file name
};

void PrintTo(const HostileFile& file, std::ostream* out) {
  *out << file.name;
}

/// A file with this header and `data_bytes` of data.
std::string with(const std::string& header, std::size_t data_bytes) {
  return safetensors_bytes(header, std::string(data_bytes, 'd'));
}

/// A file with one tensor "w" whose three fields are given as JSON.
std::string one(const char* dtype, const char* shape, const char* offsets, std::size_t data_bytes) {
  return with(R"({"w":{"dtype":)"s + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" +
                  offsets + "}}",
              data_bytes);
}

std::string length_field(std::uint64_t length) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes;
}

/// Two U8 tensors "a" and "b" of four bytes with these offsets.
std::string two(const char* a, const char* b, std::size_t data_bytes) {
  return with(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)"s + a +
                  R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + b + "}}",
              data_bytes);
}

const std::vector<HostileFile> kDamagedFiles = {
    {"Empty", "", {"has 0 bytes", "at least 8"}},
    {"SevenBytes", "1234567", {"has 7 bytes", "at least 8"}},
    {"LengthOnly", length_field(2), {"truncated", "has 8 bytes", "byte 10"}},
    {"ZeroLength", length_field(0), {"header length is 0", "at least 2"}},
    {"LengthOne", length_field(1) + "{", {"header length is 1", "at least 2"}},
    {"LengthBeyondLimit", length_field(100'000'001) + "{}", {"100000001", "at most 100000000"}},
    {"LengthAllOnes", length_field(~0ULL) + "{}", {"18446744073709551615", "at most"}},
    {"LengthBeyondFile", length_field(100) + "{}", {"truncated", "has 10 bytes", "byte 108"}},
    {"NotABrace", with("[]", 0), {"begins with \"[\"", "expected '{'"}},
    {"SpaceBeforeBrace", with(" {}", 0), {"begins with \" \"", "expected '{'"}},
    {"GitLfsPointer", "version https://git-lfs.github.com/spec/v1", {"not a safetensors file"}},
    {"CutJson", with(R"({"w":{"dtype":"U8")", 0), {"header:1:19", "\"dtype\""}},
    {"TextAfterJson", with("{}x", 0), {"header:1:3"}},
    {"NulPadding", with("{}\0\0"s, 0), {"header:1:3", "NUL"}},
    {"DuplicateTensor",
     with(R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{}})", 1),
     {"header:1:54", "\"w\" appears twice"}},
    {"DuplicateField",
     with(R"({"w":{"dtype":"U8","dtype":"I8"}})", 1),
     {"\"dtype\" appears twice"}},
    {"InvalidUtf8Name", with("{\"\xFF\":{}}", 0), {"header:1:3", "UTF-8"}},
    {"DataWithoutTensors", with("{}", 5), {"has 15 bytes", "describes 10", "last 5 bytes"}},
};

const std::vector<HostileFile> kWrongFields = {
    {"TensorIsNumber", with(R"({"w":3})", 0), {"tensor \"w\"", "is 3", "expected an object"}},
    {"TensorIsNull", with(R"({"w":null})", 0), {"tensor \"w\"", "is null"}},
    {"NoDtype",
     with(R"({"w":{"shape":[1],"data_offsets":[0,1]}})", 1),
     {"tensor \"w\"", "dtype is missing"}},
    {"NoShape",
     with(R"({"w":{"dtype":"U8","data_offsets":[0,1]}})", 1),
     {"tensor \"w\"", "shape is missing"}},
    {"NoOffsets",
     with(R"({"w":{"dtype":"U8","shape":[1]}})", 1),
     {"tensor \"w\"", "data_offsets is missing"}},
    {"UnknownField",
     with(R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":0}})", 1),
     {"tensor \"w\"", "unknown key \"x\""}},
    {"DtypeIsNumber", one("32", "[1]", "[0,4]", 4), {"tensor \"w\"", "dtype is 32", "a string"}},
    {"UnknownDtype", one("\"U32\"", "[1]", "[0,4]", 4), {"tensor \"w\"", "dtype \"U32\"", "BF16"}},
    {"LowerCaseDtype", one("\"f32\"", "[1]", "[0,4]", 4), {"tensor \"w\"", "dtype \"f32\""}},
    {"ShapeIsNumber", one("\"U8\"", "4", "[0,4]", 4), {"tensor \"w\"", "shape is 4", "an array"}},
    {"ShapeIsObject", one("\"U8\"", "{}", "[0,4]", 4), {"tensor \"w\"", "shape is {}"}},
    {"ShapeWithReal", one("\"U8\"", "[4.0]", "[0,4]", 4), {"tensor \"w\"", "shape holds 4.0"}},
    {"ShapeWithText", one("\"U8\"", "[\"4\"]", "[0,4]", 4), {"tensor \"w\"", "holds \"4\""}},
    {"ShapeWithBool", one("\"U8\"", "[true]", "[0,1]", 1), {"tensor \"w\"", "holds true"}},
    {"NegativeDim", one("\"U8\"", "[-4]", "[0,4]", 4), {"tensor \"w\"", "holds -4", "from 0"}},
    {"DimBeyondInt64",
     one("\"U8\"", "[9223372036854775808]", "[0,4]", 4),
     {"tensor \"w\"", "holds 9223372036854775808"}},
    {"RankFive",
     one("\"U8\"", "[1,1,1,1,1]", "[0,1]", 1),
     {"tensor \"w\"", "5 dimensions", "at most 4"}},
    {"ElementsOverflow",
     one("\"U8\"", "[4294967296,4294967296]", "[0,0]", 0),
     {"tensor \"w\"", "too many elements"}},
    {"BytesOverflow",
     one("\"F32\"", "[4611686018427387904]", "[0,0]", 0),
     {"tensor \"w\"", "holds 0 bytes", "4611686018427387904 x 4"}},
    {"BytesOverflowOfEight",
     one("\"I64\"", "[9223372036854775807]", "[0,8]", 8),
     {"tensor \"w\"", "holds 8 bytes", "9223372036854775807 x 8"}},
    {"MetadataIsList", with(R"({"__metadata__":["pt"]})", 0), {"__metadata__ is [\"pt\"]"}},
    {"MetadataIsNull", with(R"({"__metadata__":null})", 0), {"__metadata__ is null"}},
    {"MetadataWithNumber",
     with(R"({"__metadata__":{"format":"pt","n":1}})", 0),
     {"__metadata__", "\"n\" is 1", "a string"}},
    {"MetadataWithObject", with(R"({"__metadata__":{"format":{}}})", 0), {"\"format\" is {}"}},
    {"MetadataTwice", with(R"({"__metadata__":{},"__metadata__":{}})", 0), {"appears twice"}},
};

const std::vector<HostileFile> kWrongPlaces = {
    {"OffsetsAreObject", one("\"U8\"", "[4]", "{}", 4), {"tensor \"w\"", "data_offsets is {}"}},
    {"OneOffset", one("\"U8\"", "[4]", "[0]", 4), {"tensor \"w\"", "is [0]", "[begin, end]"}},
    {"ThreeOffsets", one("\"U8\"", "[4]", "[0,2,4]", 4), {"tensor \"w\"", "is [0,2,4]"}},
    {"RealOffset", one("\"U8\"", "[4]", "[0,4.0]", 4), {"tensor \"w\"", "data_offsets holds 4.0"}},
    {"ExponentOffset", one("\"U8\"", "[4]", "[0,4e0]", 4), {"tensor \"w\"", "data_offsets holds"}},
    {"TextOffset", one("\"U8\"", "[4]", "[\"0\",4]", 4), {"tensor \"w\"", "holds \"0\""}},
    {"NegativeOffset", one("\"U8\"", "[4]", "[-4,0]", 4), {"tensor \"w\"", "holds -4"}},
    {"HugeOffset",
     one("\"U8\"", "[4]", "[0,18446744073709551615]", 4),
     {"tensor \"w\"", "holds 18446744073709551615"}},
    {"WrappedOffsets",
     one("\"U8\"", "[4]", "[18446744073709551614,2]", 4),
     {"tensor \"w\"", "holds 18446744073709551614"}},
    {"EndBeforeBegin", one("\"U8\"", "[4]", "[4,0]", 4), {"tensor \"w\"", "ends before it begins"}},
    {"TooFewBytes",
     one("\"F32\"", "[2,3]", "[0,20]", 20),
     {"tensor \"w\"", "holds 20 bytes", "6 x 4 bytes for F32 [2, 3]"}},
    {"TooManyBytes", one("\"BF16\"", "[2]", "[0,8]", 8), {"holds 8 bytes", "2 x 2 bytes"}},
    {"ScalarOfNoBytes", one("\"F32\"", "[]", "[0,0]", 0), {"holds 0 bytes", "1 x 4 bytes"}},
    {"BytesOfEmptyTensor", one("\"F32\"", "[0,7]", "[0,4]", 4), {"holds 4 bytes", "0 x 4 bytes"}},
    {"Overlap", two("[0,4]", "[3,7]", 7), {"tensor \"b\"", "overlaps tensor \"a\"", "byte 4"}},
    {"SamePlace", two("[0,4]", "[0,4]", 4), {"tensor \"b\"", "overlaps tensor \"a\""}},
    {"Hole", two("[0,4]", "[5,9]", 9), {"tensor \"b\"", "leaves a hole after tensor \"a\""}},
    {"HoleInReverseOrder", two("[5,9]", "[0,4]", 9), {"tensor \"a\"", "hole after tensor \"b\""}},
    {"HoleAtStart", one("\"U8\"", "[4]", "[1,5]", 5), {"tensor \"w\"", "hole after the header"}},
    {"EmptyTensorInsideAnother",
     with(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},
                "e":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})",
          4),
     {"tensor \"e\"", "overlaps tensor \"a\""}},
    {"EmptyTensorBeyondEnd", one("\"U8\"", "[0]", "[9,9]", 0), {"tensor \"w\"", "hole"}},
    {"Truncated",
     two("[0,4]", "[4,8]", 5),
     {"tensor \"b\"", "truncated: the file has 118 bytes, the header describes 121",
      "download it again"}},
    {"TruncatedToTheHeader", two("[0,4]", "[4,8]", 0), {"tensor \"a\"", "truncated"}},
    {"DescribesExabytes",
     one("\"U8\"", "[9223372036854775807]", "[0,9223372036854775807]", 4),
     {"tensor \"w\"", "truncated"}},
    {"BytesAtTheEnd", two("[0,4]", "[4,8]", 11), {"last 3 bytes belong to no tensor"}},
};

class HostileSafetensors : public ::testing::TestWithParam<HostileFile> {};

TEST_P(HostileSafetensors, IsInputErrorThatNamesFileAndTensor) {
  const TemporaryDirectory folder;
  const auto path = folder.path() / "model.safetensors";
  write_bytes(path, GetParam().bytes);
  const std::string message = message_of<InputError>([&] { const SafetensorsFile file(path); });
  EXPECT_THAT(message, HasSubstr(path.string() + ": "));
  for (const char* fragment : GetParam().fragments) EXPECT_THAT(message, HasSubstr(fragment));
}

const auto kTestName = [](const auto& test) { return std::string(test.param.name); };
INSTANTIATE_TEST_SUITE_P(Damaged, HostileSafetensors, ::testing::ValuesIn(kDamagedFiles),
                         kTestName);
INSTANTIATE_TEST_SUITE_P(Fields, HostileSafetensors, ::testing::ValuesIn(kWrongFields), kTestName);
INSTANTIATE_TEST_SUITE_P(Places, HostileSafetensors, ::testing::ValuesIn(kWrongPlaces), kTestName);

TEST(SafetensorsHeader, LongAndStrangeNamesAreShownShort) {
  const std::string header = R"({")" + std::string(100'000, 'n') + R"(\n":1})";
  const std::string message = message_of<InputError>(
      [&] { parse_safetensors_header(header, 8 + header.size(), "m.safetensors"); });
  EXPECT_LT(message.size(), 400U);
  EXPECT_EQ(shown("line\nbreak \xC3\xA9"), "\"line\\nbreak \\u00e9\"");
}

TEST(SafetensorsHeader, FormatsByHand) {
  // {"__metadata__":{"format":"pt"}} is 32 characters long and needs no padding.
  EXPECT_EQ(format_safetensors_header({}),
            "\x20\0\0\0\0\0\0\0{\"__metadata__\":{\"format\":\"pt\"}}"s);
  const std::vector<TensorSpec> specs = {{"a\"\\", DType::i64, Shape{}},
                                         {"b", DType::f8_e4m3, Shape{2, 0}}};
  EXPECT_EQ(format_safetensors_header(specs),
            length_field(152) + R"({"__metadata__":{"format":"pt"},)"
                                R"("a\"\\":{"dtype":"I64","shape":[],"data_offsets":[0,8]},)"
                                R"("b":{"dtype":"F8_E4M3","shape":[2,0],"data_offsets":[8,8]}})"
                                "     ");
}

TEST(SafetensorsHeader, RefusesNamesThatAreNotUniqueSortedAndFree) {
  const TensorSpec a{"a", DType::u8, Shape{1}};
  const TensorSpec b{"b", DType::u8, Shape{1}};
  const TensorSpec reserved{"__metadata__", DType::u8, Shape{1}};
  EXPECT_THROW(format_safetensors_header(std::vector{a, a}), InternalError);
  EXPECT_THROW(format_safetensors_header(std::vector{b, a}), InternalError);
  EXPECT_THROW(format_safetensors_header(std::vector{reserved}), InternalError);
}

/// One to four random edits; digits and structure are favoured over arbitrary bytes.
std::string mutated(std::string bytes, std::mt19937& random) {
  static constexpr std::string_view kLikely = "0123456789{}[]\",:-.eE \\\0"sv;
  const auto below = [&](std::size_t n) {
    return std::uniform_int_distribution<std::size_t>(0, n - 1)(random);
  };
  for (std::size_t edit = below(4) + 1; edit > 0 && !bytes.empty(); --edit) {
    const std::size_t at = below(bytes.size());
    switch (below(6)) {
      case 0:
        bytes[at] = static_cast<char>(below(256));
        break;
      case 1:
        bytes[at] = kLikely[below(kLikely.size())];
        break;
      case 2:
        bytes.insert(at, 1, kLikely[below(kLikely.size())]);
        break;
      case 3:
        bytes.erase(at, below(4) + 1);
        break;
      case 4:
        bytes.insert(at, bytes.substr(below(bytes.size()), below(40)));
        break;
      default:
        std::swap(bytes[at], bytes[below(bytes.size())]);
        break;
    }
  }
  return bytes;
}

TEST(SafetensorsHeader, MutationsOpenOrThrowButNeverCrash) {
  const std::string valid = with(
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},)"
      R"("b":{"dtype":"F32","shape":[1],"data_offsets":[12,16]},)"
      R"("c":{"dtype":"I8","shape":[0],"data_offsets":[16,16]}}  )",
      16);
  const TemporaryDirectory folder;
  const auto path = folder.path() / "m.safetensors";
  std::mt19937 random(1);
  int opened = 0;
  for (int round = 0; round < 2000; ++round) {
    const std::string bytes = mutated(valid, random);
    std::filesystem::remove(path);  // some file systems flush a file that is overwritten
    write_bytes(path, bytes);
    try {
      const SafetensorsFile file(path);
      for (const auto& [name, entry] : file.entries()) {
        ASSERT_LE(entry.begin + entry.bytes, bytes.size());
        std::vector<std::byte> out(entry.bytes);
        file.read(entry, out);
      }
      ++opened;
    } catch (const Error& error) {
      ASSERT_THAT(error.what(), HasSubstr("m.safetensors"));
    }
  }
  EXPECT_GT(opened, 20) << "data bytes and names may change";
  EXPECT_LT(opened, 1000);
}

}  // namespace
}  // namespace quern::test
