#include "workers/tensors/torch_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <random>
#include <string>
#include <vector>

#include "kernels/core/error.h"
#include "kernels/core/float16.h"
#include "tests/support/message_of.h"
#include "tests/support/paths.h"
#include "tests/workers/tensors/safetensors_bytes.h"
#include "tests/workers/tensors/torch_bytes.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
using ::testing::Pair;

fs::path fixture(const char* name) {
  return source_dir() / "tests/data/torch" / name;
}

template <typename T>
std::vector<T> values_of(const TorchFile& file, const std::string& name) {
  const TensorEntry& entry = file.entries().at(name);
  std::vector<T> values(entry.bytes / sizeof(T));
  file.read(entry, std::as_writable_bytes(std::span(values)));
  return values;
}

void expect_layout(const TorchFile& file, const char* name, DType dtype, const Shape& shape) {
  const TensorEntry& entry = file.entries().at(name);
  EXPECT_EQ(entry.dtype, dtype) << name;
  EXPECT_EQ(entry.shape, shape) << name;
  EXPECT_EQ(entry.bytes, static_cast<std::uint64_t>(shape.elems()) * dtype_bytes(dtype)) << name;
}

/// The fixtures' float tensor [4, 6]: i / 4 - 2.
float base(std::size_t row, std::size_t column) {
  return static_cast<float>(row * 6 + column) / 4 - 2;
}

class TorchFixture : public ::testing::TestWithParam<const char*> {
 protected:
  TorchFile file_{fixture(GetParam())};
};

TEST_P(TorchFixture, ReadsEveryType) {
  expect_layout(file_, "f32", DType::f32, {4, 6});
  expect_layout(file_, "f16", DType::f16, {4, 6});
  expect_layout(file_, "bf16", DType::bf16, {4, 6});
  const auto single = values_of<float>(file_, "f32");
  const auto half = values_of<std::uint16_t>(file_, "f16");
  const auto brain = values_of<std::uint16_t>(file_, "bf16");
  for (std::size_t i = 0; i < 24; ++i) {
    EXPECT_EQ(single[i], base(0, i));
    EXPECT_EQ(f16_to_float(half[i]), base(0, i));
    EXPECT_EQ(bf16_to_float(brain[i]), base(0, i));
  }
  EXPECT_THAT(values_of<double>(file_, "f64"), ElementsAre(-2, -1.75, -1.5, -1.25, -1, -0.75));
  EXPECT_THAT(values_of<std::int64_t>(file_, "i64"), ElementsAre(-2, 0, 3));
  EXPECT_THAT(values_of<std::int32_t>(file_, "i32"), ElementsAre(-2, 0, 3));
  EXPECT_THAT(values_of<std::int16_t>(file_, "i16"), ElementsAre(-2, 0, 3));
  EXPECT_THAT(values_of<std::int8_t>(file_, "i8"), ElementsAre(-2, 0, 3));
  EXPECT_THAT(values_of<std::uint8_t>(file_, "u8"), ElementsAre(0, 7, 255));
  EXPECT_THAT(values_of<std::uint8_t>(file_, "bool"), ElementsAre(1, 0, 1));
  expect_layout(file_, "bool", DType::boolean, {3});
  expect_layout(file_, "scalar", DType::f32, {});
  EXPECT_THAT(values_of<float>(file_, "scalar"), ElementsAre(0.5F));
  expect_layout(file_, "empty", DType::f32, {0, 3});
  EXPECT_THAT(values_of<float>(file_, "empty"), ElementsAre());
  expect_layout(file_, "parameter", DType::f32, {1, 2});
  EXPECT_THAT(values_of<float>(file_, "parameter"), ElementsAre(1.5F, -2.5F));
}

TEST_P(TorchFixture, GathersViewsThatAreNotContiguous) {
  expect_layout(file_, "transposed", DType::f32, {6, 4});
  const auto transposed = values_of<float>(file_, "transposed");
  expect_layout(file_, "columns", DType::f16, {4, 3});
  const auto columns = values_of<std::uint16_t>(file_, "columns");
  expect_layout(file_, "slice", DType::f32, {2, 6});
  const auto slice = values_of<float>(file_, "slice");
  for (std::size_t n = 0; n < 4; ++n) {
    for (std::size_t k = 0; k < 6; ++k) EXPECT_EQ(transposed[k * 4 + n], base(n, k));
    for (std::size_t k = 0; k < 3; ++k) EXPECT_EQ(f16_to_float(columns[n * 3 + k]), base(n, k + 1));
  }
  for (std::size_t i = 0; i < 12; ++i) EXPECT_EQ(slice[i], base(1, i));
  // [2, 3, 4] counted up, its last axis first.
  expect_layout(file_, "permuted", DType::i16, {4, 2, 3});
  EXPECT_THAT(values_of<std::int16_t>(file_, "permuted"),
              ElementsAre(0, 4, 8, 12, 16, 20, 1, 5, 9, 13, 17, 21, 2, 6, 10, 14, 18, 22, 3, 7, 11,
                          15, 19, 23));
}

TEST_P(TorchFixture, SharedStoragesLieInTheFileOnce) {
  EXPECT_EQ(file_.entries().at("tied").begin, file_.entries().at("bf16").begin);
  EXPECT_EQ(file_.entries().at("slice").begin, file_.entries().at("f32").begin + 24);
  EXPECT_TRUE(file_.entries().at("slice").strides.empty());
  EXPECT_EQ(values_of<std::uint16_t>(file_, "tied"), values_of<std::uint16_t>(file_, "bf16"));
}

TEST_P(TorchFixture, WholeNumbersAreScalarsAndTheRestIsLeftOut) {
  EXPECT_THAT(file_.scalars(), ElementsAre(Pair("count", 77), Pair("negative", -(1LL << 40))));
  for (const char* name : {"flag", "none", "text", "real", "list", "count"}) {
    EXPECT_FALSE(file_.entries().contains(name)) << name;
  }
  EXPECT_EQ(file_.entries().size(), 18U);
}

INSTANTIATE_TEST_SUITE_P(Protocols, TorchFixture, ::testing::Values("state.pt", "protocol5.pt"));

TEST(TorchFileFixtures, AModulesStateWithItsAttributes) {
  const TorchFile file(fixture("module.pt"));
  EXPECT_THAT(values_of<float>(file, "a.weight"), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(values_of<float>(file, "a.bias"), ElementsAre(10, 11));
  EXPECT_THAT(values_of<float>(file, "b.weight"), ElementsAre(20, 21, 22, 23));
  EXPECT_EQ(file.header_hash().size(), 32U);
  EXPECT_NE(file.header_hash(), TorchFile(fixture("state.pt")).header_hash());
}

/// Files put together in the test.
class TorchFileTest : public ::testing::Test {
 protected:
  TorchFile open(const std::string& bytes) const {
    write_bytes(path_, bytes);
    return TorchFile(path_);
  }
  std::string refusal(const std::string& bytes) const {
    write_bytes(path_, bytes);
    const std::string message = message_of<InputError>([&] { const TorchFile file(path_); });
    if (message == kNothingThrown) return message;
    EXPECT_THAT(message, HasSubstr(path_.string()));
    return message;
  }
  /// A file whose dict has these items and a storage of six floats.
  std::string refusal_of(const std::string& items) const {
    return refusal(torch_bytes(pickled_dict(items), std::string(24, '\0')));
  }
  std::string refusal_with(const TorchPart& part) const {
    return refusal_of(pickled_text("w") + pickled_tensor(part));
  }

  TemporaryDirectory folder_;
  fs::path path_ = folder_.path() / "model.pt";
};

const std::string kGood = pickled_text("w") + pickled_tensor({});

TEST_F(TorchFileTest, HandMadeFilesAreRead) {
  const std::string six = le(1.0F) + le(2.0F) + le(3.0F) + le(4.0F) + le(5.0F) + le(6.0F);
  EXPECT_THAT(values_of<float>(open(torch_bytes(pickled_dict(kGood), six)), "w"),
              ElementsAre(1, 2, 3, 4, 5, 6));
  const std::string column =
      pickled_text("w") +
      pickled_tensor({.offset = 2, .shape = {2, 1, 1, 1}, .strides = {3, 9999, 1, 0}});
  EXPECT_THAT(values_of<float>(open(torch_bytes(pickled_dict(column), six)), "w"),
              ElementsAre(3, 6));
}

TEST_F(TorchFileTest, GlobalsThatAreNotAllowedAreNamed) {
  for (const auto& [module, name] :
       {std::pair("os", "system"), std::pair("builtins", "eval"), std::pair("torch", "load"),
        std::pair("torch", "ComplexFloatStorage"), std::pair("torch._utils", "_rebuild_qtensor"),
        std::pair("collections", "defaultdict"), std::pair("torch.FloatStorage", "")}) {
    const std::string global = std::string("c") + module + "\n" + name + "\n";
    const std::string call = pickled_text("w") + global + "(" + pickled_text("echo") + "tR";
    const auto names_it = AllOf(HasSubstr(std::string("\"") + module + "." + name + "\""),
                                HasSubstr("not allowed"), HasSubstr("nothing was executed"));
    EXPECT_THAT(refusal_of(call), names_it);
    const std::string stacked = pickled_text(module) + pickled_text(name) + "\x93)R";
    EXPECT_THAT(refusal_of(pickled_text("w") + stacked), names_it);
  }
}

TEST_F(TorchFileTest, OperationsThatTensorsDoNotNeedAreRefused) {
  for (const char code : {'i', 'o', 'P', '\x81', '\x92', '\x82', 'C', 'B', 'I', 'S', '\xFF'}) {
    EXPECT_THAT(refusal_of(kGood + code), AllOf(HasSubstr("operation 0x"), HasSubstr("at byte")));
  }
}

TEST_F(TorchFileTest, DamagedPicklesAreRefused) {
  const std::string good = pickled_dict(kGood);
  for (std::size_t length = 0; length < good.size(); ++length) {
    EXPECT_THAT(refusal(torch_bytes(good.substr(0, length), std::string(24, '\0'))),
                HasSubstr("data.pkl"))
        << length;
  }
  EXPECT_THAT(refusal(torch_bytes(good + "N", "")), HasSubstr("behind its end"));
  EXPECT_THAT(refusal(torch_bytes("\x80\x01}.", "")), HasSubstr("protocol 1"));
  EXPECT_THAT(refusal(torch_bytes("\x80\x02NN.", "")), HasSubstr("one value"));
  EXPECT_THAT(refusal(torch_bytes("\x80\x02N.", "")), HasSubstr("None, expected a dict"));
  EXPECT_THAT(refusal(torch_bytes("\x80\x02}.", "")), HasSubstr("holds no tensors"));
  EXPECT_THAT(refusal_of(pickled_text("state_dict") + "}(" + kGood + "u"),
              AllOf(HasSubstr("no tensors"), HasSubstr("state_dict")));
  EXPECT_THAT(refusal_of(kGood + kGood), AllOf(HasSubstr("\"w\""), HasSubstr("twice")));
  EXPECT_THAT(refusal_of("K\1" + pickled_tensor({})), HasSubstr("an integer, expected a string"));
  EXPECT_THAT(refusal_of(pickled_text("\xFF") + pickled_tensor({})), HasSubstr("UTF-8"));
  EXPECT_THAT(refusal_of(kGood + "N"), HasSubstr("no value"));
  EXPECT_THAT(refusal_of(kGood + "h\7"), HasSubstr("memo 7 was never set"));
  EXPECT_THAT(refusal_of(kGood + "\x8A\x09" + std::string(9, 'x')), HasSubstr("9 bytes"));
  EXPECT_THAT(refusal_of(kGood + "0000"), HasSubstr("a value is missing"));
  EXPECT_THAT(refusal_of(pickled_text("w") + "K\1K\1R"), HasSubstr("expected a global"));
  EXPECT_THAT(refusal_of(pickled_text("w") + "NNb"), HasSubstr("expected a dict"));
  EXPECT_THAT(refusal(torch_bytes("\x80\x04\x95" + le<std::uint64_t>(99) + "}.", "")),
              HasSubstr("frame"));
}

TEST_F(TorchFileTest, BombsCostNoMoreThanTheirBytes) {
  // Each list holds the one before it ten times: 10^64 leaves, if anybody counted them.
  std::string bomb("]q\0000", 4);
  for (char i = 1; i <= 64; ++i) {
    bomb += "](";
    for (int j = 0; j < 10; ++j) bomb.append({'h', static_cast<char>(i - 1)});
    bomb.append({'e', 'q', i, '0'});
  }
  EXPECT_EQ(refusal_of(kGood + pickled_text("x") + bomb + "h\x40"), kNothingThrown);
  const std::string circle = std::string("]q\0h\0a", 6);
  EXPECT_EQ(refusal_of(kGood + pickled_text("x") + circle), kNothingThrown);
  std::string deep = "N";
  for (int i = 0; i < 200'000; ++i) deep += "\x85";
  EXPECT_EQ(refusal_of(kGood + pickled_text("x") + deep), kNothingThrown);
  EXPECT_THAT(refusal_of(kGood + std::string(100, '(')), HasSubstr("nested more than 64 deep"));
  EXPECT_EQ(refusal_of(kGood + pickled_text("x") + "r" + le<std::uint32_t>(4'000'000'000) + "N"),
            kNothingThrown)
      << "a memo is as large as what it holds";
}

TEST_F(TorchFileTest, TooManyValuesAreRefused) {
  const std::string many(9 << 20, 'N');
  EXPECT_THAT(refusal_of(kGood + many), HasSubstr("more than 8388608 values"));
}

TEST_F(TorchFileTest, TensorsMustLieInTheirStorage) {
  EXPECT_EQ(refusal_with(TorchPart{}), kNothingThrown);
  const auto leaves = AllOf(HasSubstr("\"w\""), HasSubstr("leave its storage of 6 elements"));
  EXPECT_THAT(refusal_with({.offset = 1}), leaves);
  EXPECT_THAT(refusal_with({.strides = {4, 1}}), leaves);
  EXPECT_THAT(refusal_with({.offset = INT64_MAX}), leaves);
  EXPECT_THAT(refusal_with({.strides = {INT64_MAX, INT64_MAX}}), leaves);
  EXPECT_THAT(refusal_with({.elems = 7}), AllOf(HasSubstr("\"m/data/0\""), HasSubstr("24 bytes")));
  EXPECT_THAT(refusal_with({.elems = INT64_MAX}), HasSubstr("24 bytes"));
  EXPECT_THAT(refusal_with({.storage = "DoubleStorage"}), HasSubstr("6 elements of F64"));
  EXPECT_THAT(refusal_with({.key = "1"}), HasSubstr("\"m/data/1\" is not in the file"));
  EXPECT_THAT(refusal_with({.key = "../version"}), HasSubstr("is not in the file"));
  const auto repeats = AllOf(HasSubstr("\"w\""), HasSubstr("at most the 6 elements"));
  EXPECT_THAT(refusal_with({.shape = {1000, 1000}, .strides = {0, 0}}), repeats);
  EXPECT_THAT(refusal_with({.shape = {INT64_MAX, INT64_MAX}, .strides = {0, 0}}), repeats);
  EXPECT_THAT(refusal_with({.shape = {-2, 3}}), HasSubstr("not negative"));
  EXPECT_THAT(refusal_with({.strides = {3, -1}}), HasSubstr("its strides"));
  EXPECT_THAT(refusal_with({.offset = -1}), HasSubstr("its offset"));
  EXPECT_THAT(refusal_with({.elems = -6}), HasSubstr("number of elements"));
  EXPECT_THAT(refusal_with({.shape = {6}}), HasSubstr("1 dimensions and 2 strides"));
  EXPECT_THAT(refusal_with({.shape = {1, 1, 1, 2, 3}, .strides = {6, 6, 6, 3, 1}}),
              HasSubstr("5 dimensions, expected at most 4"));
}

TEST_F(TorchFileTest, CallsMustHaveTheirArguments) {
  const std::string rebuild = pickled_text("w") + "ctorch._utils\n_rebuild_tensor_v2\n";
  EXPECT_THAT(refusal_of(rebuild + ")R"), AllOf(HasSubstr("\"w\""), HasSubstr("at least 4")));
  EXPECT_THAT(refusal_of(rebuild + "(NNNNtR"), HasSubstr("its storage: None"));
  const std::string no_storage = pickled_text("module") + "NNNNtQ";
  EXPECT_THAT(refusal_of(rebuild + "((" + no_storage + "K\1))tR"),
              HasSubstr("('storage', class, key, device, elements)"));
  EXPECT_THAT(refusal_of(pickled_text("w") + "ctorch\nFloatStorage\n)R"),
              HasSubstr("expected a tensor"));
  const std::string parameter = "ctorch._utils\n_rebuild_parameter\n";
  EXPECT_THAT(refusal_of(pickled_text("w") + parameter + "(NtR"), HasSubstr("is None"));
  const std::string twice = parameter + "(" + parameter + "(" + pickled_tensor({}) + "tRtR";
  EXPECT_THAT(refusal_of(pickled_text("w") + twice), HasSubstr("expected a tensor"));
}

TEST_F(TorchFileTest, OtherByteOrdersAndOtherZipsAreRefused) {
  const std::string pickle = pickled_dict(kGood);
  const std::string data(24, '\0');
  EXPECT_THAT(
      refusal(zip_bytes({{"m/byteorder", "big"}, {"m/data.pkl", pickle}, {"m/data/0", data}})),
      AllOf(HasSubstr("byteorder"), HasSubstr("\"big\"")));
  EXPECT_THAT(refusal(zip_bytes({{"readme", "x"}})), HasSubstr("without data.pkl"));
  EXPECT_THAT(refusal(zip_bytes({{"a/data.pkl", pickle}, {"b/data.pkl", pickle}})),
              HasSubstr("twice"));
}

TEST_F(TorchFileTest, DamagedBytesAreRefusedOrHarmless) {
  const std::string good = read_bytes(fixture("state.pt"));
  std::mt19937 chance(3);
  int refused = 0;
  for (int i = 0; i < 500; ++i) {
    std::string bytes = good;
    for (unsigned j = 0; j <= static_cast<unsigned>(i % 3); ++j) {
      bytes[chance() % bytes.size()] = static_cast<char>(chance() % 256);
    }
    write_bytes(path_, bytes);
    try {
      const TorchFile file(path_);
      for (const auto& [name, entry] : file.entries()) {
        std::vector<std::byte> values(entry.bytes);
        file.read(entry, values);
      }
    } catch (const InputError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 100);
  EXPECT_LT(refused, 500) << "contents are not checked";
}

}  // namespace
}  // namespace quern::test
