#include "workers/tensors/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <bit>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "kernels/core/error.h"
#include "kernels/core/float16.h"
#include "tests/support/message_of.h"
#include "tests/support/paths.h"
#include "tests/workers/tensors/safetensors_bytes.h"
#include "workers/files/hash.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;
using namespace std::string_literals;
using ::testing::AllOf;
using ::testing::HasSubstr;

// bf16 1, -2, 0.5; float32 1, -2.5.
const std::string kDataOfA = "\x80\x3F\x00\xC0\x00\x3F"s;
const std::string kDataOfB = "\x00\x00\x80\x3F\x00\x00\x20\xC0"s;
const std::string kGolden =
    "\x90\0\0\0\0\0\0\0"
    "{\"__metadata__\":{\"format\":\"pt\"},"
    "\"a\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[0,6]},"
    "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[6,14]}}    "s +
    kDataOfA + kDataOfB;

std::vector<TensorSpec> golden_specs() {
  return {{"b", DType::f32, Shape{2}}, {"a", DType::bf16, Shape{3}}};
}

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

template <typename T>
std::vector<T> values_of(const SafetensorsFile& file, const std::string& name) {
  const TensorEntry& entry = file.entries().at(name);
  std::vector<T> values(entry.bytes / sizeof(T));
  file.read(entry, std::as_writable_bytes(std::span(values)));
  return values;
}

class SafetensorsTest : public ::testing::Test {
 protected:
  /// A file of the folder with these bytes.
  fs::path file_with(const std::string& bytes) const {
    write_bytes(path_, bytes);
    return path_;
  }

  TemporaryDirectory folder_;
  fs::path path_ = folder_.path() / "model.safetensors";
};

TEST_F(SafetensorsTest, WritesTheBytesOfTheFormat) {
  SafetensorsWriter writer(path_, golden_specs());
  ASSERT_EQ(writer.specs().size(), 2U);
  EXPECT_EQ(writer.specs()[0].name, "a");
  writer.write("a", bytes_of(kDataOfA));
  writer.write("b", bytes_of(kDataOfB));
  EXPECT_FALSE(fs::exists(path_)) << "visible before commit";
  writer.commit();
  EXPECT_EQ(read_bytes(path_), kGolden);
}

TEST_F(SafetensorsTest, WriterTakesDataInAnyOrder) {
  SafetensorsWriter writer(path_, golden_specs());
  writer.write("b", bytes_of(kDataOfB));
  writer.write("a", bytes_of(kDataOfA));
  const std::string hash = writer.commit();
  EXPECT_EQ(hash, sha256_file(path_));
  EXPECT_EQ(read_bytes(path_), kGolden);
}

TEST_F(SafetensorsTest, WriterTakesATensorInPieces) {
  SafetensorsWriter writer(path_, golden_specs());
  const std::span<const std::byte> a = bytes_of(kDataOfA);
  writer.append("a", a.first(2));
  writer.write("b", bytes_of(kDataOfB));
  EXPECT_THAT(message_of<InternalError>([&] { writer.commit(); }), HasSubstr("\"a\""));
  EXPECT_THAT(message_of<InternalError>([&] { writer.write("a", a); }), HasSubstr("twice"));
  EXPECT_THAT(message_of<InternalError>([&] { writer.append("a", a); }),
              AllOf(HasSubstr("\"a\""), HasSubstr("8 bytes"), HasSubstr("expected 6")));
  writer.append("a", a.subspan(2));
  const std::string hash = writer.commit();
  EXPECT_EQ(hash, sha256_file(path_));
  EXPECT_EQ(read_bytes(path_), kGolden);
}

TEST_F(SafetensorsTest, WriterRefusesWhatTheHeaderDoesNotSay) {
  {
    SafetensorsWriter writer(path_, golden_specs());
    EXPECT_THAT(message_of<InternalError>([&] { writer.write("aa", bytes_of(kDataOfB)); }),
                AllOf(HasSubstr("\"aa\""), HasSubstr("one of specs()")));
    EXPECT_THAT(message_of<InternalError>([&] { writer.write("a", bytes_of(kDataOfB)); }),
                AllOf(HasSubstr("\"a\""), HasSubstr("8 bytes"), HasSubstr("expected 6")));
    writer.write("a", bytes_of(kDataOfA));
    EXPECT_THAT(message_of<InternalError>([&] { writer.commit(); }), HasSubstr("\"b\""));
    writer.write("b", bytes_of(kDataOfB));
    EXPECT_THAT(message_of<InternalError>([&] { writer.write("b", bytes_of(kDataOfB)); }),
                HasSubstr("twice"));
  }
  EXPECT_TRUE(fs::is_empty(folder_.path())) << "an uncommitted file stayed";
  EXPECT_THROW(SafetensorsWriter(path_, {{"a", DType::u8, Shape{1}}, {"a", DType::u8, Shape{1}}}),
               InternalError);
}

TEST_F(SafetensorsTest, ReadsTheGoldenBytes) {
  const SafetensorsFile file(file_with(kGolden));
  EXPECT_EQ(file.path(), path_);
  EXPECT_EQ(file.file_bytes(), kGolden.size());
  ASSERT_EQ(file.entries().size(), 2U);
  const TensorEntry& b = file.entries().at("b");
  EXPECT_EQ(b.dtype, DType::f32);
  EXPECT_EQ(b.shape, Shape{2});
  EXPECT_EQ(b.begin, 8U + 144U + 6U);
  EXPECT_EQ(b.bytes, 8U);
  EXPECT_EQ(values_of<float>(file, "b"), (std::vector<float>{1.0F, -2.5F}));
  EXPECT_EQ(values_of<std::uint16_t>(file, "a"),
            (std::vector<std::uint16_t>{0x3F80, 0xC000, 0x3F00}));
}

TEST_F(SafetensorsTest, ReadsAnyOrderScalarsEmptyTensorsAndOddPlaces) {
  const SafetensorsFile file(file_with(safetensors_bytes(
      R"( {"z":{"data_offsets":[0,1],"shape":[],"dtype":"U8"},
           "empty":{"dtype":"F32","shape":[3,0,2],"data_offsets":[1,1]},
           "a":{"dtype":"F32","shape":[1,1,1,1],"data_offsets":[1,5]}})"s.substr(1),
      "\x07\x00\x00\x80\x3F"s)));
  EXPECT_EQ(file.entries().at("z").shape, Shape{});
  EXPECT_EQ(values_of<std::uint8_t>(file, "z"), std::vector<std::uint8_t>{7});
  EXPECT_EQ(values_of<float>(file, "empty"), std::vector<float>{});
  EXPECT_EQ(values_of<float>(file, "a"), std::vector<float>{1.0F});
}

TEST_F(SafetensorsTest, ReadsAFileWithoutTensors) {
  EXPECT_TRUE(SafetensorsFile(file_with(safetensors_bytes("{}", ""))).entries().empty());
}

TEST_F(SafetensorsTest, HeaderHashFollowsTheHeaderOnly) {
  const auto hash = [&](const std::string& bytes) {
    return SafetensorsFile(file_with(bytes)).header_hash();
  };
  std::string other_data = kGolden;
  other_data.back() = 'x';
  std::string other_name = kGolden;
  other_name.replace(other_name.find("\"b\""), 3, "\"c\"");
  EXPECT_EQ(hash(kGolden), hash(other_data));
  EXPECT_NE(hash(kGolden), hash(other_name));
  EXPECT_EQ(hash(kGolden).size(), 32U);
}

TEST_F(SafetensorsTest, RefusesAnOutputOfAnotherSize) {
  const SafetensorsFile file(file_with(kGolden));
  std::vector<std::byte> out(5);
  EXPECT_THROW(file.read(file.entries().at("a"), out), InternalError);
}

TEST_F(SafetensorsTest, RefusesWhatIsNotARegularFile) {
  const auto open = [](const fs::path& path) {
    return message_of<InputError>([&] { const SafetensorsFile file(path); });
  };
  EXPECT_THAT(open(path_), AllOf(HasSubstr(path_.string()), HasSubstr("No such file")));
  EXPECT_THAT(open(folder_.path()), AllOf(HasSubstr("a directory"), HasSubstr("regular file")));
  EXPECT_THAT(open("/dev/null"), HasSubstr("a device"));
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  EXPECT_THAT(open(path_), HasSubstr("a FIFO"));
  EXPECT_THAT(open(path_ / "x"), HasSubstr("Not a directory"));
  const fs::path loop = folder_.path() / "loop";
  fs::create_symlink(loop, loop);
  EXPECT_THAT(open(loop), HasSubstr(loop.string()));
}

TEST_F(SafetensorsTest, TruncationAfterOpeningIsInputError) {
  const SafetensorsFile file(file_with(kGolden));
  fs::resize_file(path_, kGolden.size() - 3);
  EXPECT_EQ(values_of<std::uint16_t>(file, "a").size(), 3U);
  EXPECT_THAT(message_of<InputError>([&] { values_of<float>(file, "b"); }),
              AllOf(HasSubstr(path_.string()), HasSubstr("ended at byte 163"),
                    HasSubstr("3 bytes too early"), HasSubstr("truncated")));
}

TEST(ReadableFile, ReadErrorIsStoreErrorWithPlace) {
  const fs::path memory = "/proc/self/mem";  // reading page zero gives EIO
  if (!fs::exists(memory)) GTEST_SKIP() << "no /proc/self/mem";
  const ReadableFile file(memory);
  std::byte out{};
  EXPECT_THAT(message_of<StoreError>([&] {
                file.read_at(16, {&out, 1});
              }),
              AllOf(HasSubstr("/proc/self/mem"), HasSubstr("offset 16")));
}

TEST_F(SafetensorsTest, ReadsFromSeveralThreads) {
  const SafetensorsFile file(file_with(kGolden));
  std::vector<int> wrong(4);
  std::vector<std::thread> threads;
  for (int& count : wrong) {
    threads.emplace_back([&file, &count] {
      for (int i = 0; i < 200; ++i) count += values_of<float>(file, "b")[1] == -2.5F ? 0 : 1;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4));
}

// The values below were worked out by hand from the bytes of the files.
TEST(SafetensorsReference, ReadsKnownBitsOfRealModels) {
  if (shared_dir().empty()) GTEST_SKIP() << kNoShared;
  const fs::path models = shared_dir() / "models";
  const SafetensorsFile llama(models / "llama3m/model.safetensors");
  EXPECT_EQ(llama.entries().size(), 39U);
  EXPECT_EQ(llama.entries().at("lm_head.weight").shape, (Shape{4096, 192}));
  const auto head = values_of<std::uint16_t>(llama, "lm_head.weight");
  EXPECT_EQ(bf16_to_float(head[0]), -207.0F / 2048.0F);
  EXPECT_EQ(bf16_to_float(head[1]), -137.0F / 1024.0F);

  const SafetensorsFile opt(models / "opt7m/model-00001-of-00002.safetensors");
  const auto positions = values_of<std::uint16_t>(opt, "model.decoder.embed_positions.weight");
  EXPECT_EQ(f16_to_float(positions[0]), 1795.0F / 65536.0F);

  const SafetensorsFile deepseek(models / "deepseek11m-fp8/model-00001-of-00003.safetensors");
  const std::string down = "model.layers.0.mlp.down_proj.weight";
  EXPECT_EQ(deepseek.entries().at(down).dtype, DType::f8_e4m3);
  EXPECT_EQ(values_of<std::uint8_t>(deepseek, down)[1], 0xF6);
  EXPECT_EQ(deepseek.entries().at(down + "_scale_inv").shape, (Shape{2, 4}));
  EXPECT_EQ(std::bit_cast<std::uint32_t>(values_of<float>(deepseek, down + "_scale_inv")[0]),
            0x39DC9249U);
}

TEST(SafetensorsReference, OpensAllFilesAndAccountsForEveryByte) {
  if (shared_dir().empty()) GTEST_SKIP() << kNoShared;
  int files = 0;
  for (const auto& item : fs::recursive_directory_iterator(shared_dir())) {
    if (item.path().extension() != ".safetensors") continue;
    const SafetensorsFile file(item.path());
    std::uint64_t header = 0;
    file.read_at(0, std::as_writable_bytes(std::span(&header, 1)));
    std::uint64_t sum = 8 + header;
    for (const auto& [name, entry] : file.entries()) sum += entry.bytes;
    EXPECT_EQ(sum, item.file_size()) << item.path();
    EXPECT_FALSE(file.entries().empty()) << item.path();
    ++files;
  }
  EXPECT_GE(files, 12);
}

}  // namespace
}  // namespace quern::test
