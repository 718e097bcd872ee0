#include "tests/e2e/hostile_folder.h"

#include <fmt/format.h>

#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "tests/e2e/run_folder.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kTextBytes = 24'000;

std::string run_file(const fs::path& root) {
  const auto at = [&](const char* name) { return (root / name).string(); };
  return fmt::format(
      "model: {{path: {}}}\n"
      "calibration:\n"
      "  source: {}\n"
      "  samples: 4\n"
      "  sequence_length: 32\n"
      "quantize:\n"
      "  method: gptq\n"
      "  bits: 4\n"
      "  group_size: 64\n"
      "output: {{path: {}, format: gptq}}\n"
      "run: {{directory: {}, threads: 1}}\n",
      at("model"), at("text.txt"), at("out"), at("run"));
}

}  // namespace

std::size_t TensorFile::begin_of(const std::string& tensor) const {
  return header.at(tensor).at("data_offsets").at(0).get<std::size_t>();
}

TensorFile read_tensor_file(const fs::path& path) {
  const std::string bytes = contents_of(path);
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof(length));
  return {nlohmann::ordered_json::parse(bytes.substr(8, length)), bytes.substr(8 + length)};
}

std::string tensor_file_bytes(const std::string& header, std::string_view data) {
  const std::uint64_t length = header.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes.append(header).append(data);
}

HostileFolder::HostileFolder() {
  command = {"quantize", (path() / "run.yaml").string()};
  fs::copy(source_dir() / "tests/data/llama3m", path() / "model", fs::copy_options::recursive);
  write("text.txt", contents_of(source_dir() / "tests/data/calibration.txt").substr(0, kTextBytes));
  write("run.yaml", run_file(path()));
}

void HostileFolder::write(const std::string& name, const std::string& contents) const {
  erase(name);
  replace_contents(path() / name, contents);
}

void HostileFolder::erase(const std::string& name) const {
  fs::remove_all(path() / name);
}

void HostileFolder::edit_json(const std::string& name,
                              const std::function<void(Json&)>& edit) const {
  Json json = Json::parse(contents_of(path() / name));
  edit(json);
  write(name, json.dump(1));
}

void HostileFolder::edit_config(const std::function<void(Json&)>& edit) const {
  edit_json("model/config.json", edit);
}

void HostileFolder::edit_header(const std::function<void(Json&)>& edit) const {
  edit_tensors([&](TensorFile& file) { edit(file.header); });
}

void HostileFolder::edit_tensors(const std::function<void(TensorFile&)>& edit) const {
  TensorFile file = read_tensor_file(model("model.safetensors"));
  edit(file);
  write("model/model.safetensors", tensor_file_bytes(file.header.dump(), file.data));
}

void HostileFolder::edit_run_file(std::string_view from, std::string_view to) const {
  std::string text = contents_of(path() / "run.yaml");
  const std::size_t at = text.find(from);
  if (at == std::string::npos) throw std::logic_error("the run file lacks the text to replace");
  write("run.yaml", text.replace(at, from.size(), to));
}

void HostileFolder::shard() const {
  const char* name = "model-00001-of-00001.safetensors";
  fs::rename(model("model.safetensors"), model(name));
  Json index = {{"metadata", Json::object()}, {"weight_map", Json::object()}};
  const TensorFile file = read_tensor_file(model(name));
  for (const auto& [tensor, entry] : file.header.items()) {
    if (tensor != "__metadata__") index["weight_map"][tensor] = name;
  }
  write("model/model.safetensors.index.json", index.dump(1));
}

void HostileFolder::set(const std::string& key_value) {
  command = command + Command{"--set", key_value};
}

}  // namespace quern::test
