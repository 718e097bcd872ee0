#include "tests/e2e/run_folder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "workers/files/json_file.h"
#include "workers/tensors/safetensors.h"
#include "workers/tensors/tensor_source.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;

Command launcher(int ranks) {
  return {QUERN_MPIEXEC, "--allow-run-as-root", "--oversubscribe", "--bind-to", "none",
          "-n",          std::to_string(ranks)};
}

/// The layer in a tensor name; -1 for tensors outside the layers.
int layer_of(const std::string& name) {
  const std::string prefix = "model.layers.";
  return name.starts_with(prefix) ? std::stoi(name.substr(prefix.size())) : -1;
}

Command stepper_line(const StepSignal& at) {
  return {QUERN_STEPPER,
          "--signal-at",
          std::to_string(at.step),
          "--signal",
          std::to_string(at.signal),
          "--delay-ms",
          std::to_string(at.delay_ms)};
}

}  // namespace

Command quern(int ranks, const Command& arguments) {
  const Command program = {QUERN_PROGRAM};
  return ranks == 1 ? program + arguments : launcher(ranks) + program + arguments;
}

Command quern_stepper(int ranks, const StepSignal& at, const Command& arguments) {
  if (ranks == 1) return stepper_line(at) + arguments;
  Command line = launcher(1);
  line.pop_back();
  line.pop_back();
  for (int rank = 0; rank < ranks; ++rank) {
    if (rank > 0) line.emplace_back(":");
    const StepSignal own = rank == at.rank ? at : StepSignal{};
    line = line + Command{"-n", "1"} + stepper_line(own) + arguments;
  }
  return line;
}

void cut_model(const fs::path& from, int layers, const fs::path& to) {
  const TensorSource source(from);
  std::vector<TensorSpec> specs;
  for (const std::string& name : source.names()) {
    const TensorEntry& entry = source.entry(name);
    if (layer_of(name) < layers) specs.push_back({name, entry.dtype, entry.shape});
  }
  SafetensorsWriter writer(to / "model.safetensors", specs);
  for (const TensorSpec& spec : writer.specs()) {
    writer.write(spec.name, source.read(spec.name).bytes);
  }
  writer.commit();
  nlohmann::json config = read_json_file(from / "config.json");
  config["num_hidden_layers"] = layers;
  replace_contents(to / "config.json", config.dump(2));
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}) {
    if (fs::exists(from / name)) fs::copy_file(from / name, to / name);
  }
}

TwoLayerModel::TwoLayerModel() : TwoLayerModel(source_dir() / "tests/data/llama3m") {}

TwoLayerModel::TwoLayerModel(const fs::path& whole) {
  cut_model(whole, 2, folder_.path());
}

Command squeezellm(const std::string& format, const Command& settings) {
  return Command{"quantize.method=squeezellm", "quantize.group_size=128",
                 "output.format=" + format} +
         settings;
}

RunFolder::RunFolder(const fs::path& model, Command settings) : settings_(std::move(settings)) {
  nlohmann::json file;  // JSON is YAML
  file["model"]["path"] = model.string();
  file["calibration"] = {{"source", (source_dir() / "tests/data/calibration.txt").string()},
                         {"samples", 7},
                         {"sequence_length", 64},
                         {"micro_batch", 2},
                         {"max_characters", 20000}};
  file["quantize"] = {{"method", "gptq"}, {"group_size", 64}};
  file["output"] = {{"path", output().string()}, {"format", "gptq"}, {"shard_size", 1'600'000}};
  file["run"] = {{"directory", directory().string()}, {"threads", 1}};
  replace_contents(path() / "run.yaml", file.dump(1));
}

Command RunFolder::arguments(const std::string& subcommand, const Command& settings) const {
  Command words = {subcommand, (path() / "run.yaml").string()};
  for (const std::string& setting : settings_ + settings) words = words + Command{"--set", setting};
  return words;
}

ProcessResult RunFolder::finish(int ranks, const Command& settings) const {
  ProcessResult result = run_process(quern(ranks, quantize(settings)));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  return result;
}

nlohmann::json RunFolder::report() const {
  return read_json_file(directory() / "report.json");
}

std::vector<std::string> RunFolder::steps(const std::string& subcommand) const {
  const fs::path file = path() / "steps";
  const Command listed = {"--steps", file.string()};
  const ProcessResult result = run_process(quern_stepper(1, {}, listed + arguments(subcommand)));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  std::vector<std::string> steps;
  std::ifstream lines(file);
  for (std::string line; std::getline(lines, line);) steps.push_back(line);
  return steps;
}

std::map<std::string, std::string> undisturbed_output(const fs::path& model, int ranks,
                                                      const Command& settings) {
  const RunFolder folder(model, settings);
  folder.finish(ranks);
  return folder.output_hashes();
}

std::vector<fs::path> files_below(const fs::path& folder) {
  std::vector<fs::path> files;
  if (!fs::is_directory(folder)) return files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_directory()) files.push_back(entry.path());
  }
  std::ranges::sort(files);
  return files;
}

std::vector<fs::path> bundle_files(const fs::path& run_directory) {
  std::vector<fs::path> files = files_below(run_directory / "layers");
  std::erase_if(files, [](const fs::path& file) { return file.extension() != ".h5"; });
  return files;
}

std::string contents_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void replace_contents(const fs::path& path, const std::string& contents) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << contents;
}

}  // namespace quern::test
