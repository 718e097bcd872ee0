#include "workers/tensors/tensor_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <array>
#include <fstream>
#include <string>
#include <vector>

#include "kernels/core/error.h"
#include "tests/support/message_of.h"
#include "tests/support/paths.h"
#include "tests/workers/tensors/safetensors_bytes.h"
#include "workers/files/hash.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;
using namespace std::string_literals;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kIndexFile = "model.safetensors.index.json";

/// A file of U8 tensors, each named and filled with its letter, four elements long.
std::string letters(const std::string& names) {
  std::string header = "{";
  std::string data;
  for (const char name : names) {
    header += (data.empty() ? "\""s : ",\""s) + name + R"(":{"dtype":"U8","shape":[2,2],)" +
              "\"data_offsets\":[" + std::to_string(data.size()) + "," +
              std::to_string(data.size() + 4) + "]}";
    data += std::string(4, name);
  }
  return safetensors_bytes(header + "}", data);
}

std::string text_of(const HostTensor& tensor) {
  return {reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size()};
}

class TensorSourceTest : public ::testing::Test {
 protected:
  void put(const std::string& name, const std::string& bytes) const {
    write_bytes(folder() / name, bytes);
  }
  void put_index(const std::string& weight_map) const {
    put(kIndexFile, R"({"metadata":{"total_size":1},"weight_map":)" + weight_map + "}");
  }
  /// Tensors a and b in 1.safetensors, c in 2.safetensors.
  void put_two_shards() const {
    put("1.safetensors", letters("ab"));
    put("2.safetensors", letters("c"));
    put_index(R"({"a":"1.safetensors","b":"1.safetensors","c":"2.safetensors"})");
  }
  std::string refusal() const {
    return message_of<InputError>([&] { const TensorSource source(folder()); });
  }
  const fs::path& folder() const { return folder_.path(); }

 private:
  TemporaryDirectory folder_;
};

TEST_F(TensorSourceTest, ReadsASingleFile) {
  put("model.safetensors", letters("ba"));
  const TensorSource source(folder());
  EXPECT_EQ(source.folder(), folder());
  EXPECT_THAT(source.names(), ElementsAre("a", "b"));
  EXPECT_EQ(source.shard_name("a"), "model.safetensors");
  const HostTensor a = source.read("a");
  EXPECT_EQ(a.dtype, DType::u8);
  EXPECT_EQ(a.shape, (Shape{2, 2}));
  EXPECT_EQ(text_of(a), "aaaa");
}

TEST_F(TensorSourceTest, ReadsShards) {
  put_two_shards();
  const TensorSource source(folder());
  EXPECT_THAT(source.names(), ElementsAre("a", "b", "c"));
  EXPECT_EQ(source.shard_name("b"), "1.safetensors");
  EXPECT_EQ(source.shard_name("c"), "2.safetensors");
  EXPECT_EQ(text_of(source.read("b")), "bbbb");
  EXPECT_EQ(text_of(source.read("c")), "cccc");
  EXPECT_TRUE(source.contains("c"));
  EXPECT_FALSE(source.contains("d"));
  EXPECT_EQ(source.entry("c").bytes, 4U);
}

TEST_F(TensorSourceTest, TheSingleFileWinsOverAnIndex) {
  put_two_shards();
  put("model.safetensors", letters("z"));
  EXPECT_THAT(TensorSource(folder()).names(), ElementsAre("z"));
}

TEST_F(TensorSourceTest, FollowsLinksOutOfTheFolder) {
  put_two_shards();
  const TemporaryDirectory cache;
  fs::copy_file(folder() / "2.safetensors", cache.path() / "blob");
  fs::remove(folder() / "2.safetensors");
  fs::create_symlink(cache.path() / "blob", folder() / "2.safetensors");
  EXPECT_EQ(text_of(TensorSource(folder()).read("c")), "cccc");
}

TEST_F(TensorSourceTest, AnAbsentTensorIsNamed) {
  put("model.safetensors", letters("a"));
  const TensorSource source(folder());
  const auto names_it = AllOf(HasSubstr("\"q\""), HasSubstr(folder().string()));
  EXPECT_THAT(message_of<InputError>([&] { source.read("q"); }), names_it);
  EXPECT_THAT(message_of<InputError>([&] { source.entry("q"); }), names_it);
  EXPECT_THAT(message_of<InputError>([&] { source.shard_name("q"); }), names_it);
}

TEST_F(TensorSourceTest, SaysWhatItLookedFor) {
  put("weights.safetensors", letters("a"));
  EXPECT_THAT(refusal(), AllOf(HasSubstr(folder().string()), HasSubstr("model.safetensors nor"),
                               HasSubstr(kIndexFile), HasSubstr("pytorch_model.bin nor"),
                               HasSubstr("pytorch_model.bin.index.json")));
  EXPECT_THAT(message_of<InputError>([&] { const TensorSource source(folder() / "none"); }),
              HasSubstr("not a folder"));
  EXPECT_THAT(
      message_of<InputError>([&] { const TensorSource source(folder() / "weights.safetensors"); }),
      HasSubstr("not a folder"));
}

TEST_F(TensorSourceTest, ReadsTorchFilesWhereThereIsNothingBetter) {
  const fs::path fixtures = source_dir() / "tests/data/torch";
  const TensorSource sharded(fixtures / "sharded");
  EXPECT_THAT(sharded.names(), ElementsAre("a.bias", "a.weight", "b.weight"));
  EXPECT_EQ(sharded.shard_name("b.weight"), "pytorch_model-00002-of-00002.bin");
  const HostTensor weight = sharded.read("b.weight");
  EXPECT_EQ(weight.dtype, DType::bf16);
  EXPECT_THAT(weight.as<std::uint16_t>(), ElementsAre(0x41A0, 0x41A8, 0x41B0, 0x41B8));
  EXPECT_EQ(sharded.fingerprint(), TensorSource(fixtures / "sharded").fingerprint());
  fs::copy(fixtures / "sharded", folder());
  fs::copy_file(fixtures / "state.pt", folder() / "pytorch_model.bin");
  const TensorSource single(folder());
  EXPECT_EQ(single.shard_name("f32"), "pytorch_model.bin");
  EXPECT_EQ(single.scalar("count"), 77);
  EXPECT_EQ(single.scalar("f32"), std::nullopt);
  EXPECT_NE(single.fingerprint(), sharded.fingerprint());
  put("model.safetensors", letters("a"));
  EXPECT_THAT(TensorSource(folder()).names(), ElementsAre("a"));
}

TEST_F(TensorSourceTest, ReadsTheOnePtFileOfASqueezeLlmFolder) {
  const fs::path fixtures = source_dir() / "tests/data/torch";
  fs::copy_file(fixtures / "module.pt", folder() / "sq-w4.pt");
  EXPECT_THAT(refusal(), HasSubstr("found neither")) << "nothing says what it is";
  put("quant_config.json", R"({"wbits": 4})");
  EXPECT_THAT(TensorSource(folder()).names(), ElementsAre("a.bias", "a.weight", "b.weight"));
  fs::copy_file(fixtures / "module.pt", folder() / "sq-w3.pt");
  EXPECT_THAT(refusal(), HasSubstr("2 .pt files: sq-w3.pt, sq-w4.pt, expected one"));
  fs::remove(folder() / "sq-w3.pt");
  fs::remove(folder() / "sq-w4.pt");
  EXPECT_THAT(refusal(), HasSubstr("0 .pt files, expected one"));
}

TEST_F(TensorSourceTest, TheIndexOfTorchShardsIsCheckedToo) {
  fs::copy(source_dir() / "tests/data/torch/sharded", folder());
  fs::remove(folder() / "pytorch_model-00002-of-00002.bin");
  EXPECT_THAT(refusal(), AllOf(HasSubstr("pytorch_model.bin.index.json are missing"),
                               HasSubstr("pytorch_model-00002-of-00002.bin (1 tensors)")));
  put("pytorch_model.bin.index.json",
      R"({"weight_map":{"a.bias":"pytorch_model-00001-of-00002.bin"}})");
  EXPECT_THAT(refusal(), AllOf(HasSubstr("pytorch_model.bin.index.json"),
                               HasSubstr("\"a.weight\" of pytorch_model-00001-of-00002.bin is not "
                                         "in weight_map")));
  put("pytorch_model.bin", "x");
  EXPECT_THAT(refusal(), HasSubstr("not a zip file"));
}

TEST_F(TensorSourceTest, MissingShardsAreNamedWithTheirTensors) {
  put_index(R"({"a":"1.safetensors","b":"1.safetensors","c":"2.safetensors"})");
  put("2.safetensors", letters("c"));
  EXPECT_THAT(refusal(), HasSubstr("are missing: 1.safetensors (2 tensors);"));
  fs::remove(folder() / "2.safetensors");
  EXPECT_THAT(refusal(), HasSubstr("1.safetensors (2 tensors), 2.safetensors (1 tensors)"));
}

TEST_F(TensorSourceTest, IndexAndShardsMustAgree) {
  put_two_shards();
  put_index(R"({"a":"1.safetensors","b":"1.safetensors","c":"2.safetensors","d":"2.safetensors"})");
  EXPECT_THAT(refusal(), AllOf(HasSubstr(kIndexFile), HasSubstr("\"d\" is not in 2.safetensors")));
  put_index(R"({"a":"1.safetensors","c":"2.safetensors"})");
  EXPECT_THAT(refusal(), HasSubstr("\"b\" of 1.safetensors is not in weight_map"));
  put_index(R"({"a":"1.safetensors","b":"2.safetensors","c":"2.safetensors"})");
  EXPECT_THAT(refusal(),
              HasSubstr("\"b\" is said to be in 2.safetensors, but is in 1.safetensors"));
  put("2.safetensors", letters("bc"));
  EXPECT_THAT(refusal(), HasSubstr("\"b\" is in two shards, 1.safetensors and 2.safetensors"));
}

TEST_F(TensorSourceTest, RefusesHostileIndexes) {
  put_two_shards();
  for (const char* name : {"../1.safetensors", "/etc/passwd", "x/1.safetensors", "..", ".", "",
                           "1.safetensors/", "1.safetensors\\u0000"}) {
    put_index(R"({"a":")"s + name + "\"}");
    EXPECT_THAT(refusal(),
                AllOf(HasSubstr(kIndexFile), HasSubstr("\"a\""), HasSubstr("plain name")))
        << name;
  }
  for (const char* map : {"[]", "null", "\"1.safetensors\""}) {
    put_index(map);
    EXPECT_THAT(refusal(), AllOf(HasSubstr(kIndexFile), HasSubstr("object weight_map"))) << map;
  }
  put_index("{}");
  EXPECT_THAT(refusal(), HasSubstr("weight_map is empty"));
  put_index(R"({"a":1})");
  EXPECT_THAT(refusal(), AllOf(HasSubstr("\"a\" is in 1"), HasSubstr("expected a file name")));
  put_index(R"({"a":"1.safetensors","a":"2.safetensors"})");
  EXPECT_THAT(refusal(), AllOf(HasSubstr(kIndexFile), HasSubstr("appears twice")));
  for (const char* text : {"", "[]", "{}", "{\"weight_map\"", "\x80"}) {
    put(kIndexFile, text);
    EXPECT_THAT(refusal(), HasSubstr(kIndexFile)) << text;
  }
}

TEST_F(TensorSourceTest, RefusesDamagedShards) {
  put_two_shards();
  fs::resize_file(folder() / "2.safetensors", fs::file_size(folder() / "2.safetensors") - 1);
  EXPECT_THAT(refusal(), AllOf(HasSubstr("2.safetensors"), HasSubstr("truncated")));
  fs::remove(folder() / "2.safetensors");
  fs::create_directory(folder() / "2.safetensors");
  EXPECT_THAT(refusal(), AllOf(HasSubstr("2.safetensors"), HasSubstr("a directory")));
  put("model.safetensors", "");
  EXPECT_THAT(refusal(), AllOf(HasSubstr("model.safetensors"), HasSubstr("0 bytes")));
  fs::remove(folder() / "model.safetensors");
  ASSERT_EQ(mkfifo((folder() / "model.safetensors").c_str(), 0600), 0);
  EXPECT_THAT(refusal(), HasSubstr("a FIFO"));
}

TEST_F(TensorSourceTest, FingerprintOfASmallFileIsThatOfAllItsBytes) {
  const std::string bytes = letters("ab");
  put("model.safetensors", bytes);
  const std::string header = bytes.substr(8, bytes.size() - 8 - 8);
  const std::string hashed = std::to_string(bytes.size()) + " " +
                             xxh3_hex(std::as_bytes(std::span(header))) + "\n" + bytes;
  EXPECT_EQ(TensorSource(folder()).fingerprint(), xxh3_hex(std::as_bytes(std::span(hashed))));
}

TEST_F(TensorSourceTest, FingerprintSeesChangesButNotTheFolder) {
  put_two_shards();
  const std::string before = TensorSource(folder()).fingerprint();
  EXPECT_EQ(before, TensorSource(folder()).fingerprint());
  const TemporaryDirectory copy;
  fs::copy(folder(), copy.path(), fs::copy_options::recursive);
  EXPECT_EQ(before, TensorSource(copy.path()).fingerprint());
  std::string changed = letters("c");
  changed.back() = 'x';
  put("2.safetensors", changed);
  EXPECT_NE(before, TensorSource(folder()).fingerprint());
}

TEST_F(TensorSourceTest, FingerprintSamplesLargeFilesFromStartToEnd) {
  constexpr std::size_t kDataBytes = 6 << 20;
  const std::string header = R"({"a":{"dtype":"U8","shape":[6291456],"data_offsets":[0,6291456]}})";
  std::string bytes = safetensors_bytes(header, std::string(kDataBytes, '\0'));
  const auto fingerprint = [&] {
    put("model.safetensors", bytes);
    return TensorSource(folder()).fingerprint();
  };
  const std::string before = fingerprint();
  // Sample i of 64 begins at i * (size - 65536) / 63.
  const std::size_t sample_20 = (bytes.size() - 65536) * 20 / 63;
  for (const std::size_t place :
       {bytes.size() - 1, bytes.size() - 65536, sample_20, sample_20 + 65535}) {
    bytes[place] = 1;
    EXPECT_NE(fingerprint(), before) << place;
    bytes[place] = 0;
  }
  bytes[sample_20 - 1] = 1;
  EXPECT_EQ(fingerprint(), before) << "between two samples";
}

TEST_F(TensorSourceTest, PartsOfStoredTensors) {
  put_two_shards();
  const TensorSource source(folder());
  const std::optional<StoredTensor> stored = source.stored("b");
  ASSERT_TRUE(stored);
  EXPECT_EQ(stored->bytes, 4U);
  EXPECT_EQ(stored->dtype, source.entry("b").dtype);
  std::array<std::byte, 2> part{};
  stored->read(2, part);
  EXPECT_EQ(part, (std::array{std::byte{'b'}, std::byte{'b'}}));
  EXPECT_THROW(stored->read(3, part), InternalError);
  EXPECT_THROW(source.stored("unknown"), InputError);
}

struct Model {
  const char* name;
  std::size_t tensors;
  std::uint64_t bytes;  ///< total_size of the index
};

TEST(TensorSourceReference, OpensAllModels) {
  if (shared_dir().empty()) GTEST_SKIP() << kNoShared;
  for (const Model& model : {Model{"llama3m", 39, 6688128}, Model{"llama20m", 75, 40907520},
                             Model{"opt7m", 100, 14722048}, Model{"mistral9m", 57, 17439232},
                             Model{"deepseek11m-fp8", 499, 17043220}}) {
    const TensorSource source(shared_dir() / "models" / model.name);
    std::uint64_t bytes = 0;
    for (const std::string& name : source.names()) bytes += source.entry(name).bytes;
    EXPECT_EQ(source.names().size(), model.tensors) << model.name;
    EXPECT_EQ(bytes, model.bytes) << model.name;
  }
}

}  // namespace
}  // namespace quern::test
