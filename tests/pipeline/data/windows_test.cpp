#include "pipeline/data/windows.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/pipeline/data/test_files.h"
#include "tests/support/paths.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<std::int32_t>;

Ids row(const TokenWindows& windows, std::int64_t index) {
  const auto ids = windows.ids.as<std::int32_t>();
  const auto begin = ids.begin() + index * windows.sequence_length();
  return {begin, begin + windows.sequence_length()};
}

class WindowsTest : public testing::Test {
 protected:
  WindowsTest() : tokenizer_(load_tokenizer(source_dir() / "tests/data/llama3m")) {}

  fs::path write(const char* name, std::string_view contents) {
    return write_file(directory_.path() / name, contents);
  }
  /// `count` lines that differ, each of `words` words.
  fs::path write_lines(int count, int words) {
    std::string lines;
    for (int i = 0; i < count; ++i) {
      lines += "{\"text\": \"";
      for (int k = 0; k < words; ++k) lines += " word " + std::to_string(i * 1000 + k);
      lines += "\"}\n";
    }
    return write("lines.jsonl", lines);
  }
  std::string refusal(const CalibrationConfig& config) {
    return message_of<InputError>([&] { calibration_windows(config, tokenizer_.get(), kLimits); });
  }

  static constexpr TokenLimits kLimits{.vocab_size = 4096, .max_positions = 2048};
  std::unique_ptr<Tokenizer> tokenizer_;
  TemporaryDirectory directory_;
};

class Protocol : public testing::TestWithParam<std::tuple<const char*, std::int32_t>> {};

TEST_P(Protocol, WindowsAreBosAndNeighbouringSlices) {
  if (shared_dir().empty()) GTEST_SKIP() << kNoShared;
  const auto& [model, bos] = GetParam();
  const auto golden = read_json(shared_dir() / "golden" / (std::string(model) + ".json"));
  const Ids first = golden["eval_first_1000_ids"].get<Ids>();
  const auto tokenizer = load_tokenizer(shared_dir() / "models" / model);
  const EvaluateConfig config{.text = {.source = {shared_dir() / "data" / "eval.txt"},
                                       .sequence_length = 512,
                                       .max_characters = 400'000},
                              .samples = 64};
  const TokenWindows windows =
      evaluation_windows(config, tokenizer.get(), {.vocab_size = 8192, .max_positions = 2048});
  ASSERT_EQ(windows.count(), 64);
  ASSERT_EQ(windows.sequence_length(), 512);
  EXPECT_EQ(windows.hash.size(), 32u);
  for (std::int64_t i = 0; i < 64; ++i) EXPECT_EQ(row(windows, i)[0], bos);
  Ids text = row(windows, 0);
  const Ids second = row(windows, 1);
  text.insert(text.end(), second.begin() + 1, second.end());
  text.erase(text.begin());
  text.resize(1000);
  EXPECT_EQ(text, first);
}

INSTANTIATE_TEST_SUITE_P(Models, Protocol,
                         testing::Values(std::tuple("llama3m", 0), std::tuple("llama20m", 0),
                                         std::tuple("mistral9m", 1), std::tuple("opt7m", 2),
                                         std::tuple("deepseek11m-fp8", 0)));

TEST_F(WindowsTest, SequentialWindowsCoverTheJoinedText) {
  const fs::path a = write("a.txt", "The miller grinds.");
  const fs::path b = write("b.jsonl", "{\"text\": \"Slowly.\"}\n{\"text\": \"And well.\"}");
  const Ids joined = tokenizer_->encode("The miller grinds.\n\nSlowly.\n\nAnd well.");
  EvaluateConfig config{.text = {.source = {a, b}, .sequence_length = 4}};
  const TokenWindows windows = evaluation_windows(config, tokenizer_.get(), kLimits);
  ASSERT_EQ(windows.count(), std::ssize(joined) / 3);
  for (std::int64_t i = 0; i < windows.count(); ++i) {
    EXPECT_EQ(row(windows, i), (Ids{0, joined[static_cast<std::size_t>(3 * i)],
                                    joined[static_cast<std::size_t>(3 * i + 1)],
                                    joined[static_cast<std::size_t>(3 * i + 2)]}));
  }
  config.text.bos = BosPolicy::never;
  const TokenWindows bare = evaluation_windows(config, tokenizer_.get(), kLimits);
  ASSERT_EQ(bare.count(), std::ssize(joined) / 4);
  EXPECT_EQ(row(bare, 1), (Ids{joined.begin() + 4, joined.begin() + 8}));
}

TEST_F(WindowsTest, SequentialReadsNoMoreDocumentsThanItNeeds) {
  const fs::path good = write_lines(500, 100);
  const fs::path broken = write("broken.jsonl", "{broken");
  const CalibrationConfig config{.text = {.source = {good}, .sequence_length = 16},
                                 .samples = 3,
                                 .sampling = Sampling::sequential};
  CalibrationConfig more = config;
  more.text.source.push_back(broken);
  EXPECT_EQ(calibration_windows(config, tokenizer_.get(), kLimits).hash,
            calibration_windows(more, tokenizer_.get(), kLimits).hash);
}

TEST_F(WindowsTest, RandomTakesOneWindowOfEachDocument) {
  const fs::path lines = write_lines(40, 20);
  const CalibrationConfig config{.text = {.source = {lines}, .sequence_length = 16}, .samples = 40};
  const TokenWindows windows = calibration_windows(config, tokenizer_.get(), kLimits);
  std::set<Ids> distinct;
  for (std::int64_t i = 0; i < windows.count(); ++i) distinct.insert(row(windows, i));
  EXPECT_EQ(distinct.size(), 40u);
  const auto again = calibration_windows(config, tokenizer_.get(), kLimits);
  EXPECT_EQ(again.hash, windows.hash);
}

TEST_F(WindowsTest, RandomWindowsAreSlicesOfTheText) {
  const std::string text = read_file(source_dir() / "tests/data/calibration.txt").substr(0, 20'000);
  const Ids ids = tokenizer_->encode(text);
  const CalibrationConfig config{.text = {.source = {write("a.txt", text)}, .sequence_length = 33},
                                 .samples = 50};
  const TokenWindows windows = calibration_windows(config, tokenizer_.get(), kLimits);
  auto from = ids.begin();
  for (std::int64_t i = 0; i < windows.count(); ++i) {
    const Ids window = row(windows, i);
    EXPECT_EQ(window[0], 0);
    const auto found = std::search(from, ids.end(), window.begin() + 1, window.end());
    ASSERT_NE(found, ids.end()) << "window " << i;
    from = found + 32;  // the next one does not overlap
  }
}

TEST_F(WindowsTest, FewLongDocumentsGiveSeveralWindows) {
  const fs::path lines = write_lines(3, 60);
  const CalibrationConfig config{.text = {.source = {lines}, .sequence_length = 16}, .samples = 12};
  const TokenWindows windows = calibration_windows(config, tokenizer_.get(), kLimits);
  std::set<Ids> distinct;
  for (std::int64_t i = 0; i < 12; ++i) distinct.insert(row(windows, i));
  EXPECT_EQ(distinct.size(), 12u);
}

TEST_F(WindowsTest, SameWindowsOnEveryPlatform) {
  const fs::path lines = write_lines(60, 30);
  const auto hash = [&](std::uint64_t seed) {
    return calibration_windows(
               {.text = {.source = {lines}, .sequence_length = 32}, .samples = 16, .seed = seed},
               tokenizer_.get(), kLimits)
        .hash;
  };
  EXPECT_EQ(hash(0), "004ce9ca46d38b0a778895a38077da4e");
  EXPECT_EQ(hash(1), "236f1017d8c82f7a2e01a7a89ff4fb63");
}

TEST_F(WindowsTest, TooLittleTextSaysHowMuchThereIs) {
  const fs::path text = write("a.txt", "The miller grinds slowly, and the stones turn.");
  CalibrationConfig config{.text = {.source = {text}, .sequence_length = 4}, .samples = 100};
  EXPECT_THAT(refusal(config), testing::ContainsRegex("a.txt\\) yields [0-9]+ windows of 4 tokens "
                                                      "without overlap, but 100 are asked for"));
  config.sampling = Sampling::sequential;
  EXPECT_THAT(refusal(config), testing::HasSubstr("lower calibration.samples"));
  config.text.source = {write("empty.txt", "")};
  EXPECT_THAT(refusal(config), testing::HasSubstr("yields 0 windows"));
  config.sampling = Sampling::random;
  EXPECT_THAT(refusal(config), testing::HasSubstr("yields 0 windows"));
}

TEST_F(WindowsTest, SettingsThatCannotBeMet) {
  const fs::path text = write("a.txt", "The miller grinds.");
  const auto says = [&](const CalibrationConfig& config) {
    return message_of<ConfigError>([&] { calibration_windows(config, tokenizer_.get(), kLimits); });
  };
  EXPECT_THAT(says({.text = {.source = {text}, .sequence_length = 4096}}),
              testing::HasSubstr("4096, but the model has 2048 positions"));
  EXPECT_THAT(says({.text = {.source = {text}, .sequence_length = 1}}),
              testing::HasSubstr("at least 2"));
  EXPECT_THAT(says({.text = {.source = {text}}, .samples = 0}),
              testing::HasSubstr("calibration.samples"));
  EXPECT_THAT(says({.text = {}}), testing::HasSubstr("names no file"));
}

TEST_F(WindowsTest, TokenizerThatDoesNotFitTheModel) {
  const EvaluateConfig config{
      .text = {.source = {write("a.txt", "The miller grinds.")}, .sequence_length = 3}};
  EXPECT_THAT(message_of<InputError>([&] {
                evaluation_windows(config, tokenizer_.get(),
                                   {.vocab_size = 10, .max_positions = 64});
              }),
              testing::HasSubstr("do not belong together"));
  EXPECT_THAT(message_of<InputError>([&] { evaluation_windows(config, nullptr, kLimits); }),
              testing::HasSubstr("has no tokenizer"));
}

}  // namespace
}  // namespace quern::test
