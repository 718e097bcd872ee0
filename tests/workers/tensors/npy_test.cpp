#include "workers/tensors/npy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/core/error.h"
#include "tests/support/message_of.h"
#include "tests/support/paths.h"
#include "tests/workers/tensors/safetensors_bytes.h"

namespace quern::test {
namespace {

using namespace std::string_literals;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// Version 1.0 with this dictionary text.
std::string npy(const std::string& header, const std::string& data) {
  const std::string length = {static_cast<char>(header.size() % 256),
                              static_cast<char>(header.size() / 256)};
  return "\x93NUMPY\x01\0"s + length + header + data;
}

std::string array(const std::string& descr, const std::string& shape, const std::string& data) {
  return npy("{'descr': '" + descr + "', 'fortran_order': False, 'shape': " + shape + ", }   \n",
             data);
}

class NpyTest : public ::testing::Test {
 protected:
  HostTensor read(const std::string& bytes) const {
    write_bytes(path_, bytes);
    return read_npy(path_);
  }
  std::string refusal(const std::string& bytes) const {
    return message_of<InputError>([&] { read(bytes); });
  }
  TemporaryDirectory folder_;
  std::filesystem::path path_ = folder_.path() / "tokens.npy";
};

// What numpy.save writes for numpy.arange(6, dtype=numpy.int32).reshape(2, 3): 128 bytes, then
// data.
TEST_F(NpyTest, ReadsTheBytesNumPyWrites) {
  std::string header = "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 3), }";
  header.resize(117, ' ');
  const HostTensor tensor = read("\x93NUMPY\x01\x00\x76\x00"s + header + "\n" +
                                 "\0\0\0\0\x01\0\0\0\x02\0\0\0\x03\0\0\0\x04\0\0\0\x05\0\0\0"s);
  EXPECT_EQ(tensor.dtype, DType::i32);
  EXPECT_EQ(tensor.shape, (Shape{2, 3}));
  EXPECT_THAT(tensor.as<std::int32_t>(), ElementsAre(0, 1, 2, 3, 4, 5));
}

TEST_F(NpyTest, ReadsVersions2And3AndAnyKeyOrder) {
  const std::string header = "{\"shape\":(1,),'fortran_order':False,'descr':'|u1'}";
  for (const char version : {'\x02', '\x03'}) {
    const HostTensor tensor = read("\x93NUMPY"s + version + "\0"s +
                                   static_cast<char>(header.size()) + "\0\0\0"s + header + "\x07");
    EXPECT_EQ(tensor.dtype, DType::u8);
    EXPECT_THAT(tensor.as<std::uint8_t>(), ElementsAre(7));
  }
}

TEST_F(NpyTest, ReadsEveryType) {
  EXPECT_THAT(read(array("|i1", "(2,)", "\xFF\x02")).as<std::int8_t>(), ElementsAre(-1, 2));
  EXPECT_THAT(read(array("<i2", "(2,)", "\xFE\xFF\x01\x02")).as<std::int16_t>(),
              ElementsAre(-2, 513));
  EXPECT_THAT(read(array("<i8", "(1,)", "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF")).as<std::int64_t>(),
              ElementsAre(-1));
  EXPECT_THAT(read(array("<f4", "(1,)", "\0\0\x20\xC0"s)).as<float>(), ElementsAre(-2.5F));
  EXPECT_THAT(read(array("<f8", "(1,)", "\0\0\0\0\0\0\x04\xC0"s)).as<double>(), ElementsAre(-2.5));
  EXPECT_EQ(read(array("<f2", "(1,)", "\0\x3C"s)).dtype, DType::f16);
  EXPECT_EQ(read(array("|b1", "(1,)", "\x01")).dtype, DType::boolean);
}

TEST_F(NpyTest, WidensUnsignedTypesWithoutSign) {
  const HostTensor u2 = read(array("<u2", "(3,)", "\x01\0\xFF\xFF\x02\x01"s));
  EXPECT_EQ(u2.dtype, DType::i32);
  EXPECT_THAT(u2.as<std::int32_t>(), ElementsAre(1, 65535, 258));
  const HostTensor u4 = read(array("<u4", "(2, 1)", "\xFF\xFF\xFF\xFF\x05\0\0\x80"s));
  EXPECT_EQ(u4.shape, (Shape{2, 1}));
  EXPECT_THAT(u4.as<std::int64_t>(), ElementsAre(4294967295, 2147483653));
}

TEST_F(NpyTest, ReadsScalarsAndEmptyArrays) {
  EXPECT_EQ(read(array("|u1", "()", "x")).shape, Shape{});
  EXPECT_EQ(read(array("<f4", "(0, 3)", "")).shape, (Shape{0, 3}));
  EXPECT_EQ(read(array("<u2", "(0,)", "")).shape, Shape{0});
}

TEST_F(NpyTest, RefusesWhatIsNotSupported) {
  EXPECT_THAT(refusal(array(">f4", "(1,)", "1234")),
              AllOf(HasSubstr("tokens.npy"), HasSubstr("'>f4'")));
  EXPECT_THAT(refusal(array("<u8", "(1,)", "12345678")), HasSubstr("'<u8'"));
  EXPECT_THAT(refusal(array("|O", "(1,)", "12345678")), HasSubstr("'|O'"));
  EXPECT_THAT(refusal(array("<c8", "(1,)", "12345678")), HasSubstr("'<c8'"));
  EXPECT_THAT(
      refusal(npy("{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (1,)}", "1234")),
      HasSubstr("structured"));
  EXPECT_THAT(refusal(npy("{'descr': '<f4', 'fortran_order': True, 'shape': (1,)}", "1234")),
              HasSubstr("Fortran order"));
  EXPECT_THAT(refusal(array("|u1", "(1, 1, 1, 1, 1)", "x")), HasSubstr("at most 4"));
}

TEST_F(NpyTest, RefusesDamage) {
  const std::string good = array("<i4", "(2,)", "12345678");
  for (std::size_t size = 0; size < good.size(); ++size) {
    EXPECT_THAT(refusal(good.substr(0, size)), HasSubstr("tokens.npy")) << size;
  }
  EXPECT_THAT(refusal(good + "x"),
              AllOf(HasSubstr("9 bytes follow"), HasSubstr("2 elements of 4")));
  EXPECT_THAT(refusal("PK\3\4" + good), HasSubstr("not an npy file"));
  EXPECT_THAT(refusal("\x93NUMPY\x04\0\0\0\0\0\0\0"s), HasSubstr("version 4.0"));
  for (const char* header :
       {"", "{", "{}", "[]", "{'descr': '<i4'}",
        "{'descr': '<i4', 'fortran_order': 0, 'shape': ()}",
        "{'descr': '<i4', 'fortran_order': False, 'shape': (-1,)}",
        "{'descr': '<i4', 'fortran_order': False, 'shape': (1.5,)}",
        "{'descr': '<i4', 'fortran_order': False, 'shape': 1}",
        "{'descr': '<i4', 'fortran_order': False, 'shape': (99999999999999999999,)}",
        "{'descr': '<i4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}",
        "{'descr': '<i4', 'fortran_order': False, 'shape': (1,)} more",
        "{'descr': '<i4', 'descr': '<i4', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<i4', 'fortran_order': False, 'shape': (1,), 'x': 1}", "{'descr: 1}"}) {
    EXPECT_THAT(refusal(npy(header, "1234")), HasSubstr("the npy header, character")) << header;
  }
  EXPECT_THAT(refusal(array("<i4", "(9223372036854775807,)", "1234")), HasSubstr("4 bytes follow"));
}

TEST_F(NpyTest, RefusesAMissingFile) {
  EXPECT_THAT(message_of<InputError>([&] { read_npy(path_); }), HasSubstr(path_.string()));
}

}  // namespace
}  // namespace quern::test
