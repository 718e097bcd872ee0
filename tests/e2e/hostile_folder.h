#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "tests/support/paths.h"
#include "tests/support/process.h"

namespace quern::test {

/// A safetensors file taken apart: header text and data, whatever they hold.
struct TensorFile {
  nlohmann::ordered_json header;
  std::string data;

  /// Offset of a tensor's first byte in `data`.
  std::size_t begin_of(const std::string& tensor) const;
};

TensorFile read_tensor_file(const std::filesystem::path& path);
/// The bytes of a file with this header text, which need not be JSON.
std::string tensor_file_bytes(const std::string& header, std::string_view data);

/// A good model, text and run file in a temporary directory, for a test to spoil.
///   model/  copy of tests/data/llama3m    text.txt  calibration text    run.yaml
class HostileFolder {
 public:
  using Json = nlohmann::ordered_json;

  HostileFolder();

  const std::filesystem::path& path() const noexcept { return folder_.path(); }
  std::filesystem::path model(const std::string& name) const { return path() / "model" / name; }
  std::filesystem::path output() const { return path() / "out"; }
  std::filesystem::path directory() const { return path() / "run"; }

  void write(const std::string& name, const std::string& contents) const;
  void erase(const std::string& name) const;
  void edit_json(const std::string& name, const std::function<void(Json&)>& edit) const;
  void edit_config(const std::function<void(Json&)>& edit) const;
  void edit_header(const std::function<void(Json&)>& edit) const;
  void edit_tensors(const std::function<void(TensorFile&)>& edit) const;
  /// Replaces text that the run file must hold.
  void edit_run_file(std::string_view from, std::string_view to) const;
  /// The tensors in one shard file, and an index that says so.
  void shard() const;

  /// Appends --set arguments to the command.
  void set(const std::string& key_value);

  Command command;  ///< arguments of quern; quantize run.yaml at first

 private:
  TemporaryDirectory folder_;
};

}  // namespace quern::test
