#include <gtest/gtest.h>

#include "tests/e2e/hostile_case.h"
#include "tests/e2e/run_folder.h"
#include "tests/workers/tensors/torch_bytes.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;

using Json = HostileFolder::Json;
using Spoil = std::function<void(HostileFolder&)>;

/// The good run file with another method and further settings.
Spoil squeezellm_run(const Command& settings) {
  return [settings](HostileFolder& folder) {
    folder.edit_run_file("  bits: 4\n  group_size: 64\n", "");
    folder.edit_run_file("method: gptq", "method: squeezellm");
    folder.edit_run_file("format: gptq", "format: squeezellm_safetensors");
    for (const std::string& setting : settings) folder.set(setting);
  };
}

/// The rows or columns of the feed-forward part that are left when it is made narrower.
void narrow(HostileFolder& folder, int width) {
  folder.edit_config([&](Json& config) { config["intermediate_size"] = width; });
  folder.edit_tensors([&](TensorFile& file) {
    std::map<std::size_t, std::string> order;
    for (const auto& [name, entry] : file.header.items()) {
      if (name != "__metadata__") order[file.begin_of(name)] = name;
    }
    std::string data;
    for (const auto& [begin, name] : order) {
      Json& entry = file.header[name];
      std::size_t bytes = entry["data_offsets"][1].get<std::size_t>() - begin;
      if (name.find(".mlp.") != std::string::npos) {
        entry["shape"][name.find("down_proj") == std::string::npos ? 0 : 1] = width;
        bytes = entry["shape"][0].get<std::size_t>() * entry["shape"][1].get<std::size_t>() * 2;
      }
      entry["data_offsets"] = {data.size(), data.size() + bytes};
      data += file.data.substr(begin, bytes);
    }
    file.data = data;
  });
}

/// A checkpoint in PyTorch's format in place of the good one.
Spoil torch_checkpoint(const std::string& bytes) {
  return [bytes](HostileFolder& folder) {
    folder.erase("model/model.safetensors");
    folder.write("model/pytorch_model.bin", bytes);
  };
}

std::string pickle_that_calls(const std::string& module, const std::string& name) {
  const std::string call = pickled_text("model.norm.weight") + "c" + module + "\n" + name + "\n(" +
                           pickled_text("touch output") + "tR";
  return torch_bytes(pickled_dict(call), std::string(24, '\0'));
}

std::string good_torch_file() {
  return torch_bytes(pickled_dict(pickled_text("model.norm.weight") + pickled_tensor({})),
                     std::string(24, '\0'));
}

/// A finished .pt output with its end cut off, for a subcommand that reads it.
Spoil cut_output(const Command& command) {
  return [command](HostileFolder& folder) {
    squeezellm_run({"output.format=squeezellm"})(folder);
    const ProcessResult made = run_process(quern(1, folder.command));
    ASSERT_EQ(made.exit_code, 0) << made.err;
    const fs::path file = folder.output() / "squeezellm.pt";
    fs::resize_file(file, fs::file_size(file) - 100);
    folder.command.front() = command.front();
    folder.command = folder.command + Command(command.begin() + 1, command.end());
    folder.set("evaluate.source=" + (folder.path() / "text.txt").string());
    folder.set("evaluate.sequence_length=64");
  };
}

const std::vector<HostileCase> kRows = {
    {"FormatOfAnotherMethod",
     64,
     {"output.format: gptq cannot hold what quantize.method squeezellm makes",
      "squeezellm, squeezellm_safetensors or dequantized"},
     squeezellm_run({"output.format=gptq"})},
    {"MethodOfAnotherFormat",
     64,
     {"output.format: squeezellm cannot hold what quantize.method gptq makes"},
     [](HostileFolder& folder) { folder.set("output.format=squeezellm"); }},
    {"TargetOutOfReach",
     64,
     {"quantize.target_bits: 2.1 bits per weight cannot be met", "tables included, it is 2.5",
      "ask for that or more"},
     squeezellm_run({"quantize.target_bits=2.1"})},
    {"TargetAndBits",
     64,
     {"quantize.bits: quantize.target_bits chooses the bits", "remove bits or target_bits"},
     squeezellm_run({"quantize.target_bits=5", "quantize.bits=4"})},
    {"HeadAsTables",
     64,
     {"quantize.lm_head", "no effect on quantize.method squeezellm", "expected"},
     squeezellm_run({"quantize.lm_head=true"})},
    {"GroupsOfTables",
     64,
     {"run.yaml:8:15: quantize.group_size: ", "no effect on quantize.method squeezellm"},
     [](HostileFolder& folder) {
       squeezellm_run({})(folder);
       folder.edit_run_file("squeezellm\n", "squeezellm\n  group_size: 64\n");
     }},
    {"MoreThanAllOutliers",
     64,
     {"quantize.sparsity: '0.9' is out of range"},
     squeezellm_run({"quantize.sparsity=0.9"})},
    {"FeaturesThatDoNotPack",
     65,
     {"module 'model.layers.0.mlp.down_proj' has 500 in features", "pack 32 at a time",
      "skip it by a rule, or choose output.format dequantized"},
     [](HostileFolder& folder) {
       squeezellm_run({})(folder);
       narrow(folder, 500);
     }},
    {"MemoryThatIsNoSize",
     64,
     {"run.activation_memory: ", "expected"},
     squeezellm_run({"run.activation_memory=much"})},
    {"StatisticsInAFile",
     74,
     {"text.txt", "Not a directory"},
     [](HostileFolder& folder) {
       squeezellm_run({"run.statistics=keep"})(folder);
       folder.set("run.statistics_directory=" + (folder.path() / "text.txt").string());
     }},
    {"SweepOfNothing",
     64,
     {"sweep: the run file has no such section"},
     [](HostileFolder& folder) { folder.command.front() = "sweep"; }},
    {"SweepAsARun",
     64,
     {"sweep: this run file describes a sweep; use 'quern sweep'"},
     squeezellm_run({"sweep.bits=[3, 4]"})},
    {"PickleThatCalls",
     65,
     {"pytorch_model.bin: ", "posix.system"},
     torch_checkpoint(pickle_that_calls("posix", "system"))},
    {"PickleOfAnUnknownClass",
     65,
     {"pytorch_model.bin: ", "transformers.modeling.Model"},
     torch_checkpoint(pickle_that_calls("transformers.modeling", "Model"))},
    {"TorchFileWithoutItsEnd",
     65,
     {"pytorch_model.bin: "},
     torch_checkpoint(good_torch_file().substr(0, 300))},
    {"TorchFileThatIsNone",
     65,
     {"pytorch_model.bin: "},
     torch_checkpoint("version https://git-lfs.github.com/spec/v1\n")},
    {"OutputWithoutItsEnd", 65, {"verification failed with 1 problem"}, cut_output({"verify"})},
    {"EvaluatedWithoutItsEnd", 65, {"squeezellm.pt: "}, cut_output({"evaluate"})},
};

class HostileSqueezeLlm : public testing::TestWithParam<HostileCase> {};

TEST_P(HostileSqueezeLlm, IsAnswered) {
  check_hostile_case(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Rows, HostileSqueezeLlm, testing::ValuesIn(kRows), name_of_case);

// Without them the rows would prove nothing.
TEST(HostileSqueezeLlmFolder, IsGoodUntilItIsSpoilt) {
  HostileFolder folder;
  squeezellm_run({})(folder);
  narrow(folder, 480);
  const ProcessResult result = run_process(quern(1, folder.command));
  EXPECT_EQ(result.exit_code, 0) << result.err;
}

}  // namespace
}  // namespace quern::test
