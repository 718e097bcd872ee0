#include "workers/tensors/torch_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "kernels/core/error.h"
#include "tests/support/message_of.h"
#include "tests/support/paths.h"
#include "tests/workers/tensors/safetensors_bytes.h"
#include "tests/workers/tensors/torch_bytes.h"
#include "workers/files/hash.h"
#include "workers/tensors/torch_file.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;
using namespace std::string_literals;
using ::testing::HasSubstr;

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

class TorchWriterTest : public ::testing::Test {
 protected:
  /// Tensor w [2, 1] i32 and the number n.
  void write_small() const {
    TorchWriter writer(path_);
    writer.add(std::vector<TensorSpec>{{"w", DType::i32, {2, 1}}});
    writer.set_scalars({{"n", 300}});
    writer.write("w", bytes_of(le<std::int32_t>(7) + le<std::int32_t>(-1)));
    writer.commit();
  }

  TemporaryDirectory folder_;
  fs::path path_ = folder_.path() / "model.pt";
};

TEST_F(TorchWriterTest, ThePickleIsThatOfTheFormat) {
  const std::vector<TensorSpec> specs = {{"w", DType::i32, {2, 3}}, {"x", DType::bf16, {}}};
  const std::vector<NamedScalar> scalars = {
      {"a", 7}, {"b", 300}, {"c", -1}, {"d", 1LL << 40}, {"e", 255}};
  const std::string expected =
      "\x80\x02}("
      "X\1\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nIntStorage\n"
      "X\1\0\0\0"
      "0X\3\0\0\0cpuK\6tQK\0(K\2K\3t(K\3K\1t\x89"
      "ccollections\nOrderedDict\n)RtR"
      "X\1\0\0\0xctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nBFloat16Storage\n"
      "X\1\0\0\0"
      "1X\3\0\0\0cpuK\1tQK\0(t(t\x89"
      "ccollections\nOrderedDict\n)RtR"
      "X\1\0\0\0aK\7X\1\0\0\0bJ\x2C\1\0\0X\1\0\0\0cJ\xFF\xFF\xFF\xFFX\1\0\0\0d\x8A\x08\0\0\0\0\0\1"
      "\0\0X\1\0\0\0eK\xFFu."s;
  EXPECT_EQ(format_pickle(specs, scalars), expected);
  EXPECT_THROW(format_pickle(std::vector<TensorSpec>{{"w", DType::f8_e4m3, {1}}}, {}),
               InternalError);
}

TEST_F(TorchWriterTest, WritesTheBytesOfTheFormat) {
  write_small();
  const std::string bytes = read_bytes(path_);
  const std::string pickle = format_pickle(std::vector<TensorSpec>{{"w", DType::i32, {2, 1}}},
                                           std::vector<NamedScalar>{{"n", 300}});
  EXPECT_EQ(bytes.substr(0, 14), "PK\3\4\x14\0\0\0\0\0\0\0\x21\0"s);
  // 30 + 17 of name + 4 of extra field, and 13 of padding.
  EXPECT_EQ(bytes.substr(26, 38), "\x11\0\x11\0archive/byteorderFB\x0D\0ZZZZZZZZZZZZZ"s);
  EXPECT_EQ(bytes.substr(64, 6), "little");
  const std::size_t last = bytes.find("archive/data.pkl");
  EXPECT_EQ(bytes.substr((last + 64) / 64 * 64, pickle.size()), pickle);
  const std::size_t data = bytes.find("archive/data/0");
  const std::size_t contents = (data + 64) / 64 * 64;
  EXPECT_EQ(bytes.substr(contents, 8), le<std::int32_t>(7) + le<std::int32_t>(-1));
  // CRC-32 of the bytes 07 00 00 00 FF FF FF FF, as zlib and Python compute it.
  EXPECT_EQ(bytes.substr(data - 16, 4), le<std::uint32_t>(0xB15CF693)) << "checksum";
  EXPECT_EQ(bytes.substr(bytes.size() - 22, 12), "PK\5\6\0\0\0\0\4\0\4\0"s);
}

TEST_F(TorchWriterTest, TakesDataInAnyOrder) {
  const std::vector<TensorSpec> specs = {{"v", DType::u8, {3}}, {"w", DType::u8, {70}}};
  const std::string v = "abc";
  const std::string w(70, 'w');
  std::vector<std::string> files;
  for (const bool reversed : {false, true}) {
    TorchWriter writer(path_);
    writer.add(specs);
    if (reversed) writer.write("w", bytes_of(w));
    writer.write("v", bytes_of(v));
    if (!reversed) writer.write("w", bytes_of(w));
    const std::string hash = writer.commit();
    EXPECT_EQ(hash, sha256_file(path_));
    files.push_back(read_bytes(path_));
  }
  EXPECT_EQ(files[0], files[1]);
}

TEST_F(TorchWriterTest, TakesATensorInPieces) {
  write_small();
  const std::string whole = read_bytes(path_);
  const std::string data = le<std::int32_t>(7) + le<std::int32_t>(-1);
  TorchWriter writer(path_);
  writer.add(std::vector<TensorSpec>{{"w", DType::i32, {2, 1}}});
  writer.set_scalars({{"n", 300}});
  for (const std::size_t begin : {0, 3, 6})
    writer.append("w", bytes_of(data).subspan(begin).first(begin == 6 ? 2 : 3));
  const std::string hash = writer.commit();
  EXPECT_EQ(hash, sha256_file(path_));
  EXPECT_EQ(read_bytes(path_), whole);
}

TEST_F(TorchWriterTest, TakesTensorsThatComeUpLater) {
  const std::vector<TensorSpec> specs = {{"w", DType::u8, {70}}, {"v", DType::u8, {3}}};
  const std::string w(70, 'w');
  std::vector<std::string> files;
  for (const bool together : {false, true}) {
    TorchWriter writer(path_);
    writer.add(std::span(specs).first(together ? 2 : 1));
    writer.write("w", bytes_of(w));
    if (!together) writer.add(std::span(specs).last(1));
    writer.write("v", bytes_of("abc"));
    EXPECT_THAT(message_of<InternalError>([&] { writer.add(specs); }), HasSubstr("\"w\""));
    const std::string hash = writer.commit();
    EXPECT_EQ(hash, sha256_file(path_));
    files.push_back(read_bytes(path_));
  }
  EXPECT_EQ(files[0], files[1]);
  const TorchFile file(path_);
  EXPECT_LT(file.entries().at("w").begin, file.entries().at("v").begin);
}

TEST_F(TorchWriterTest, EqualContentsAreEqualBytes) {
  write_small();
  const std::string first = read_bytes(path_);
  write_small();
  EXPECT_EQ(read_bytes(path_), first);
}

TEST_F(TorchWriterTest, TheReaderFindsEverythingAligned) {
  std::vector<TensorSpec> specs = {{"b", DType::f16, {3}},
                                   {"a", DType::u8, {0}},
                                   {"c", DType::f32, {1, 2}},
                                   {"d", DType::boolean, {}}};
  TorchWriter writer(path_);
  writer.add(specs);
  writer.set_scalars({{"z", -5}, {"y", INT64_MIN}});
  for (const TensorSpec& spec : writer.specs()) {
    const std::size_t bytes =
        static_cast<std::size_t>(spec.shape.elems()) * dtype_bytes(spec.dtype);
    writer.write(spec.name, bytes_of(std::string(bytes, spec.name[0])));
  }
  writer.commit();
  const TorchFile file(path_);
  ASSERT_EQ(file.entries().size(), 4U);
  for (const TensorSpec& spec : specs) {
    const TensorEntry& entry = file.entries().at(spec.name);
    EXPECT_EQ(entry.dtype, spec.dtype);
    EXPECT_EQ(entry.shape, spec.shape);
    EXPECT_EQ(entry.begin % 64, 0U) << spec.name;
    EXPECT_TRUE(entry.strides.empty()) << spec.name;
    std::string found(entry.bytes, '\0');
    file.read(entry, std::as_writable_bytes(std::span(found)));
    EXPECT_EQ(found, std::string(entry.bytes, spec.name[0]));
  }
  EXPECT_THAT(file.scalars(),
              ::testing::ElementsAre(::testing::Pair("y", INT64_MIN), ::testing::Pair("z", -5)));
}

TEST_F(TorchWriterTest, AnUncommittedFileDoesNotStay) {
  {
    TorchWriter writer(path_);
    writer.add(std::vector<TensorSpec>{{"w", DType::u8, {1}}});
    EXPECT_THAT(message_of<InternalError>([&] { writer.commit(); }), HasSubstr("\"w\""));
    writer.write("w", bytes_of("x"));
    EXPECT_FALSE(fs::exists(path_)) << "visible before commit";
    EXPECT_THAT(message_of<InternalError>([&] { writer.write("v", bytes_of("x")); }),
                HasSubstr("expected one of specs()"));
  }
  EXPECT_TRUE(fs::is_empty(folder_.path()));
}

TEST_F(TorchWriterTest, ManyTensorsNeedTheWideDirectory) {
  constexpr int kTensors = 66'000;
  std::vector<TensorSpec> specs;
  for (int i = 0; i < kTensors; ++i) specs.push_back({std::to_string(i), DType::u8, {1}});
  TorchWriter writer(path_);
  writer.add(specs);
  for (const TensorSpec& spec : specs) writer.write(spec.name, bytes_of(spec.name.substr(0, 1)));
  writer.commit();
  const TorchFile file(path_);
  ASSERT_EQ(file.entries().size(), static_cast<std::size_t>(kTensors));
  char digit = 0;
  file.read(file.entries().at("65999"), std::as_writable_bytes(std::span(&digit, 1)));
  EXPECT_EQ(digit, '6');
}

}  // namespace
}  // namespace quern::test
