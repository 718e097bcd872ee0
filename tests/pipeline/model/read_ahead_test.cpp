#include "pipeline/model/read_ahead.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "kernels/core/error.h"
#include "tests/support/message_of.h"
#include "tests/support/paths.h"
#include "tests/workers/test_session.h"
#include "workers/tensors/safetensors.h"

namespace quern::test {
namespace {

using testing::HasSubstr;

constexpr std::int64_t kLarge = (9 << 20) + 5;  ///< elements of more than two pieces

/// Byte i of a tensor.
std::byte pattern(std::size_t i, std::size_t seed) {
  return static_cast<std::byte>((i * 7 + i / 4096 + seed) & 0xFF);
}

std::vector<std::byte> bytes_of(std::int64_t count, std::size_t seed) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = pattern(i, seed);
  return bytes;
}

/// A checkpoint of a large, an odd and an empty tensor, and one that is computed.
class MixedWeights final : public WeightSource {
 public:
  explicit MixedWeights(const std::filesystem::path& folder) {
    const auto spec = [](const char* name, std::int64_t elems) {
      return TensorSpec{name, DType::u8, {elems}};
    };
    SafetensorsWriter writer(folder / "model.safetensors",
                             {spec("empty", 0), spec("large", kLarge), spec("odd", 3)});
    writer.write("empty", {});
    writer.write("large", bytes_of(kLarge, 1));
    writer.write("odd", bytes_of(3, 2));
    writer.commit();
    tensors_ = std::make_unique<TensorSource>(folder);
  }

  HostTensor read(const std::string& name) const override {
    if (name == "damaged") throw InputError("tensor 'damaged' cannot be decoded");
    if (name != "computed") return tensors_->read(name);
    HostTensor tensor(DType::i32, {2, 2});
    tensor.bytes = bytes_of(16, 3);
    return tensor;
  }
  std::optional<StoredTensor> stored(const std::string& name) const override {
    if (name == "damaged" || name == "computed") return std::nullopt;
    return tensors_->stored(name);
  }
  std::uint64_t bytes(const std::string& name) const override { return read(name).bytes.size(); }

 private:
  std::unique_ptr<TensorSource> tensors_;
};

class ReadAheadTest : public testing::Test {
 protected:
  void expect_taken(const std::vector<std::string>& names) {
    const std::vector<HostView> views = reads_.take(names);
    ASSERT_EQ(views.size(), names.size());
    for (std::size_t i = 0; i < names.size(); ++i) {
      const HostTensor expected = weights_.read(names[i]);
      EXPECT_EQ(views[i].dtype, expected.dtype) << names[i];
      EXPECT_TRUE(std::ranges::equal(views[i].bytes, expected.bytes)) << names[i];
    }
  }

  TemporaryDirectory folder_;
  MixedWeights weights_{folder_.path()};
  Session session_ = quiet_session();
  ReadAhead reads_{session_, weights_};
};

TEST_F(ReadAheadTest, GivesTensorsInTheOrderAskedFor) {
  const std::vector<std::string> all = {"odd", "large", "empty", "computed"};
  reads_.start(all);
  expect_taken(all);
  expect_taken({"computed"});
  expect_taken({"large", "odd"});
  expect_taken({});
}

TEST_F(ReadAheadTest, AnotherRequestReplacesTheOneStarted) {
  reads_.start({"large"});
  reads_.start({"odd"});
  expect_taken({"odd"});
  reads_.start({"large"});
  expect_taken({"computed", "odd"});
  expect_taken({"large"});
  reads_.start({"large"});  // never taken
}

TEST_F(ReadAheadTest, RethrowsWhenTakenAndCanGoOn) {
  reads_.start({"odd", "damaged"});
  EXPECT_THAT(message_of<InputError>([&] {
                reads_.take({"odd", "damaged"});
              }),
              HasSubstr("'damaged'"));
  expect_taken({"odd"});
  reads_.start({"unknown"});
  EXPECT_THAT(message_of<InputError>([&] { reads_.take({"unknown"}); }), HasSubstr("unknown"));
  std::filesystem::resize_file(folder_.path() / "model.safetensors", 5 << 20);
  reads_.start({"large"});
  EXPECT_THAT(message_of<InputError>([&] { reads_.take({"large"}); }),
              HasSubstr("model.safetensors"));
}

}  // namespace
}  // namespace quern::test
