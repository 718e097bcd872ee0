#include <gtest/gtest.h>

#include <cstring>

#include "pipeline/data/windows.h"
#include "tests/pipeline/data/test_files.h"
#include "tests/support/paths.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<std::int32_t>;

/// Written by hand after NumPy's format description, version 1.0.
template <typename T>
std::string npy(const char* type, const std::string& shape, const std::vector<T>& values) {
  std::string header =
      std::string("{'descr': '") + type + "', 'fortran_order': False, 'shape': " + shape + ", }";
  while ((10 + header.size() + 1) % 64 != 0) header += ' ';
  header += '\n';
  std::string file = std::string("\x93NUMPY\x01\x00", 8);
  file += static_cast<char>(header.size() & 0xFF);
  file += static_cast<char>(header.size() >> 8);
  file += header;
  file.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  return file;
}

std::string safetensors(const std::string& header, const Ids& values) {
  std::uint64_t length = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  file += header;
  file.append(reinterpret_cast<const char*>(values.data()), values.size() * 4);
  return file;
}

class TokenFiles : public testing::Test {
 protected:
  EvaluateConfig evaluate(const std::string& name, const std::string& contents,
                          std::int64_t length) {
    return {.text = {.source = {write_file(directory_.path() / name, contents)},
                     .sequence_length = length}};
  }
  static Ids all(const TokenWindows& windows) {
    const auto ids = windows.ids.as<std::int32_t>();
    return {ids.begin(), ids.end()};
  }
  static constexpr TokenLimits kLimits{.vocab_size = 100, .max_positions = 64};
  TemporaryDirectory directory_;
};

TEST_F(TokenFiles, AStreamIsCutIntoNeighbours) {
  const std::vector<std::int64_t> stream{1, 2, 3, 4, 5, 6, 7};
  auto config = evaluate("a.npy", npy("<i8", "(7,)", stream), 3);
  EXPECT_EQ(all(evaluation_windows(config, nullptr, kLimits)), (Ids{1, 2, 3, 4, 5, 6}));
  config.text.bos = BosPolicy::always;
  TokenLimits limits = kLimits;
  limits.bos_id = 9;
  EXPECT_EQ(all(evaluation_windows(config, nullptr, limits)), (Ids{9, 1, 2, 9, 3, 4, 9, 5, 6}));
  EXPECT_THAT(message_of<ConfigError>([&] { evaluation_windows(config, nullptr, kLimits); }),
              testing::HasSubstr("evaluate.bos"));
}

TEST_F(TokenFiles, EveryIntegerType) {
  const auto cut = [&](const std::string& contents) {
    return all(evaluation_windows(evaluate("a.npy", contents, 2), nullptr, kLimits));
  };
  EXPECT_EQ(cut(npy<std::int8_t>("|i1", "(2,)", {1, 99})), (Ids{1, 99}));
  EXPECT_EQ(cut(npy<std::uint8_t>("|u1", "(2,)", {1, 99})), (Ids{1, 99}));
  EXPECT_EQ(cut(npy<std::int16_t>("<i2", "(2,)", {1, 99})), (Ids{1, 99}));
  EXPECT_EQ(cut(npy<std::uint16_t>("<u2", "(2,)", {1, 99})), (Ids{1, 99}));
  EXPECT_EQ(cut(npy<std::int32_t>("<i4", "(2,)", {1, 99})), (Ids{1, 99}));
  EXPECT_EQ(cut(npy<std::uint32_t>("<u4", "(2,)", {1, 99})), (Ids{1, 99}));
  EXPECT_THAT(message_of<InputError>([&] {
                cut(npy<float>("<f4", "(2,)", {1, 2}));
              }),
              testing::HasSubstr("must be integers"));
}

TEST_F(TokenFiles, RowsAreWindows) {
  const std::vector<std::int32_t> rows{1, 2, 3, 4, 5, 6};
  const auto config = evaluate("a.npy", npy("<i4", "(2, 3)", rows), 2);
  EXPECT_EQ(all(evaluation_windows(config, nullptr, kLimits)), (Ids{1, 2, 4, 5}));
  auto too_long = config;
  too_long.text.sequence_length = 4;
  EXPECT_THAT(message_of<InputError>([&] { evaluation_windows(too_long, nullptr, kLimits); }),
              testing::HasSubstr("windows of 3 ids, but evaluate.sequence_length is 4"));
}

TEST_F(TokenFiles, RandomRowsAreDistinct) {
  Ids values(60);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::int32_t>(i);
  const auto text = evaluate("a.npy", npy("<i4", "(30, 2)", values), 2).text;
  const Ids ids = all(calibration_windows({.text = text, .samples = 30}, nullptr, kLimits));
  EXPECT_NE(ids, values);
  Ids sorted = ids;
  std::ranges::sort(sorted);
  EXPECT_EQ(sorted, values);
  EXPECT_THAT(message_of<InputError>(
                  [&] { calibration_windows({.text = text, .samples = 31}, nullptr, kLimits); }),
              testing::HasSubstr("yields 30 windows of 2 tokens, but 31 are asked for"));
}

TEST_F(TokenFiles, Safetensors) {
  const std::string one = R"({"x":{"dtype":"I32","shape":[4],"data_offsets":[0,16]}})";
  const std::string two = R"({"input_ids":{"dtype":"I32","shape":[2],"data_offsets":[8,16]},)"
                          R"("a":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}})";
  const std::string unnamed = R"({"b":{"dtype":"I32","shape":[2],"data_offsets":[8,16]},)"
                              R"("a":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}})";
  const auto cut = [&](const std::string& header) {
    const auto config = evaluate("a.safetensors", safetensors(header, {1, 2, 3, 4}), 2);
    return all(evaluation_windows(config, nullptr, kLimits));
  };
  EXPECT_EQ(cut(one), (Ids{1, 2, 3, 4}));
  EXPECT_EQ(cut(two), (Ids{3, 4}));
  EXPECT_THAT(message_of<InputError>([&] { cut(unnamed); }), testing::HasSubstr("input_ids"));
}

TEST_F(TokenFiles, IdsOutsideTheVocabulary) {
  for (const std::int64_t bad : {std::int64_t{-1}, std::int64_t{100}, std::int64_t{1} << 40}) {
    const auto config = evaluate("a.npy", npy<std::int64_t>("<i8", "(2, 2)", {1, 2, bad, 3}), 2);
    EXPECT_THAT(message_of<InputError>([&] { evaluation_windows(config, nullptr, kLimits); }),
                testing::HasSubstr("row 1, column 0 is outside the model's vocabulary of 100"));
  }
}

TEST_F(TokenFiles, KindsAreNotMixed) {
  auto config = evaluate("a.npy", npy<std::int32_t>("<i4", "(2,)", {1, 2}), 2);
  config.text.source.push_back(write_file(directory_.path() / "b.txt", "text"));
  EXPECT_THAT(message_of<ConfigError>([&] { evaluation_windows(config, nullptr, kLimits); }),
              testing::HasSubstr("mixes text and token ids"));
  config.text.source[1] =
      write_file(directory_.path() / "b.npy", npy<std::int32_t>("<i4", "(1, 2)", {1, 2}));
  EXPECT_THAT(message_of<InputError>([&] { evaluation_windows(config, nullptr, kLimits); }),
              testing::HasSubstr("use one kind"));
}

}  // namespace
}  // namespace quern::test
