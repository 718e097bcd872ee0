#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/e2e/run_folder.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;

using nlohmann::json;

/// What quantization_config must say for one of configs/; null: a model that loads as a plain one.
struct RunFileRow {
  std::string name;
  json expected;
  int wbits = 0;  ///< of SqueezeLLM's .pt; 0: another format
};

json gptq(int bits, int group_size, const json& more = json::object()) {
  json expected = {{"bits", bits},
                   {"group_size", group_size},
                   {"sym", true},
                   {"desc_act", false},
                   {"lm_head", false},
                   {"quant_method", "gptq"},
                   {"checkpoint_format", "gptq"},
                   {"pack_dtype", "int32"}};
  expected.update(more);
  return expected;
}

const std::vector<RunFileRow> kRows = {
    {"dequantized", nullptr},
    {"gptq-asymmetric", gptq(4, 64, {{"sym", false}, {"checkpoint_format", "gptq_v2"}})},
    {"gptq-w3-act-order", gptq(3, 128, {{"desc_act", true}})},
    {"gptq-w4", gptq(4, 128)},
    {"mixed-bits", gptq(4, 128,
                        {{"dynamic",
                          {{R"(-:(?:.*\.layers\.31\..*)$)", json::object()},
                           {R"(+:(?:.*\.layers\.[01]\..*)$)", {{"bits", 8}}},
                           {R"(+:(?:.*\.down_proj)$)", {{"bits", 8}, {"group_size", 64}}}}}})},
    {"quickstart", gptq(4, 128)},
    {"rtn", gptq(8, 128)},
    {"squeezellm", nullptr, 4},
    {"squeezellm-sparse", nullptr, 3},
};

/// The run file on the small model, in a directory of the test.
Command small_run(const std::string& name, const fs::path& folder,
                  const std::string& subcommand = "quantize") {
  const auto data = [](const char* file) { return (source_dir() / "tests/data" / file).string(); };
  Command words = {subcommand, (source_dir() / "configs" / (name + ".yaml")).string()};
  Command settings = {"model.path=" + data("llama3m"),
                      "evaluate.source=" + data("evaluation.txt"),
                      "evaluate.sequence_length=64",
                      "evaluate.samples=4",
                      "output.path=" + (folder / "out").string(),
                      "run.directory=" + (folder / "run").string()};
  if (name != "rtn") {
    settings = settings + Command{"calibration.source=" + data("calibration.txt"),
                                  "calibration.samples=4", "calibration.sequence_length=64"};
  }
  for (const std::string& setting : settings) words = words + Command{"--set", setting};
  return words;
}

class RunFiles : public testing::TestWithParam<RunFileRow> {};

TEST_P(RunFiles, QuantizeAndSayWhatTheyWrote) {
  const auto& [name, expected, wbits] = GetParam();
  const TemporaryDirectory folder;
  const ProcessResult result = run_process(quern(1, small_run(name, folder.path())));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, testing::HasSubstr("verified"));
  EXPECT_THAT(result.out, testing::HasSubstr("perplexity"));
  const json config = json::parse(contents_of(folder.path() / "out/config.json"));
  const json found = config.value("quantization_config", json());
  if (expected.is_null()) {
    EXPECT_TRUE(found.is_null()) << found;
    EXPECT_FALSE(fs::exists(folder.path() / "out/quantize_config.json"));
    EXPECT_EQ(fs::exists(folder.path() / "out/squeezellm.pt"), wbits > 0);
    if (wbits == 0) return;
    EXPECT_EQ(json::parse(contents_of(folder.path() / "out/quant_config.json")),
              json({{"wbits", wbits}}));
    return;
  }
  for (const auto& [key, value] : expected.items())
    EXPECT_EQ(found.value(key, json()), value) << key;
  EXPECT_EQ(found.contains("dynamic"), expected.contains("dynamic"));
  EXPECT_EQ(json::parse(contents_of(folder.path() / "out/quantize_config.json")), found);
}

INSTANTIATE_TEST_SUITE_P(Rows, RunFiles, testing::ValuesIn(kRows), [](const auto& row) {
  std::string name = row.param.name;
  std::erase(name, '-');
  return name;
});

/// gptq at 2 x 2 points but one, squeezellm at 2 x 3, and the two that are listed.
TEST(RunFilesTable, TheSweepMakesAModelAtEveryPoint) {
  const TemporaryDirectory folder;
  const Command words = small_run("sweep", folder.path(), "sweep");
  const ProcessResult result = run_process(quern(1, words));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const json sweep = json::parse(contents_of(folder.path() / "run/sweep.json"));
  std::vector<std::string> names;
  for (const json& point : sweep.at("points")) {
    names.push_back(point.at("name"));
    EXPECT_TRUE(fs::exists(folder.path() / "out" / names.back() / "SHA256SUMS")) << names.back();
    EXPECT_GT(point.at("perplexity").get<double>(), 1.0) << names.back();
  }
  EXPECT_THAT(names, testing::UnorderedElementsAre("gptq-b3-row", "gptq-b3-g128", "gptq-b4-g128",
                                                   "gptq-b8-g128", "rtn-b4-g128", "squeezellm-b3",
                                                   "squeezellm-b4", "squeezellm-b3-s0.0005",
                                                   "squeezellm-b4-s0.0005", "squeezellm-b3-s0.0045",
                                                   "squeezellm-b4-s0.0045"));
}

TEST(RunFilesTable, HasARowForEveryRunFile) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(source_dir() / "configs")) {
    if (entry.path().extension() == ".yaml") names.push_back(entry.path().stem().string());
  }
  std::vector<std::string> rows = {"sweep"};
  for (const RunFileRow& row : kRows) rows.push_back(row.name);
  EXPECT_THAT(rows, testing::UnorderedElementsAreArray(names));
}

}  // namespace
}  // namespace quern::test
