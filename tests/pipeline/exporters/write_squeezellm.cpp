// Writes hand-made modules in both containers of the SqueezeLLM format, and their weights beside,
// for read_squeezellm_test.py to compare. usage: write_squeezellm FOLDER

#include <fmt/format.h>

#include <filesystem>
#include <fstream>

#include "pipeline/exporters/exporter.h"
#include "tests/pipeline/model/packed_bits.h"
#include "tests/pipeline/model/table_modules.h"
#include "workers/tensors/safetensors.h"
#include "workers/tensors/torch_writer.h"

namespace quern::test {
namespace {

namespace fs = std::filesystem;

struct Model {
  std::vector<TableModule> modules;

  std::vector<ModuleSummary> summaries() const {
    std::vector<ModuleSummary> result;
    for (const TableModule& made : modules) result.push_back(made.module);
    return result;
  }
};

/// Tensors that are not quantized.
std::map<std::string, HostTensor> other_tensors() {
  return {{"a.bias", host_tensor<float>(DType::f32, {3}, {1.5F, -2.25F, 1e-30F})},
          {"model.norm.weight", host_tensor<std::uint16_t>(DType::bf16, {2}, {0x3F80, 0xC000})}};
}

void write_json(const fs::path& path, const nlohmann::ordered_json& json) {
  std::ofstream(path) << json.dump(2) << "\n";
}

void write_tensors(TensorWriter& writer, const std::map<std::string, HostTensor>& tensors) {
  for (const TensorSpec& spec : writer.specs())
    writer.write(spec.name, tensors.at(spec.name).bytes);
  writer.commit();
}

std::vector<TensorSpec> specs_of(const std::map<std::string, HostTensor>& tensors) {
  std::vector<TensorSpec> specs;
  for (const auto& [name, tensor] : tensors) specs.push_back({name, tensor.dtype, tensor.shape});
  return specs;
}

void write_packed(const Model& model, OutputFormat format, const fs::path& folder) {
  fs::create_directories(folder);
  const auto exporter = make_exporter(format, Plan{});
  const ModelGraph graph;
  const QuantizeConfig config;
  const std::vector<ModuleSummary> summaries = model.summaries();
  const ExportedModel exported{graph, config, summaries};
  std::map<std::string, HostTensor> tensors = other_tensors();
  std::vector<TensorSpec> specs = specs_of(tensors);
  for (const TableModule& made : model.modules) {
    for (const TensorSpec& spec : exporter->specs(made.module, DType::f32)) specs.push_back(spec);
    for (NamedTensor& named : exporter->tensors(made.module, DType::f32)) {
      tensors[named.name] = std::move(named.tensor);
    }
  }
  nlohmann::ordered_json json = {{"model_type", "made"}};
  const nlohmann::ordered_json quantization = exporter->quantization_config(exported);
  if (!quantization.is_null()) json["quantization_config"] = quantization;
  write_json(folder / "config.json", json);
  for (const SideFile& file : exporter->side_files(exported)) {
    write_json(folder / file.name, file.contents);
  }
  if (exporter->container() == Container::torch) {
    TorchWriter writer(folder / "squeezellm.pt");
    writer.add(specs);
    writer.set_scalars(exporter->scalars(exported));
    return write_tensors(writer, tensors);
  }
  SafetensorsWriter writer(folder / "model.safetensors", specs);
  write_tensors(writer, tensors);
}

void write_plain(const Model& model, const fs::path& folder) {
  fs::create_directories(folder);
  std::map<std::string, HostTensor> tensors = other_tensors();
  for (const auto& [module, weight] : model.modules) {
    tensors[module.name + ".weight"] =
        host_tensor(DType::f32, {module.out_features, module.in_features}, weight);
  }
  write_json(folder / "config.json", {{"model_type", "made"}});
  SafetensorsWriter writer(folder / "model.safetensors", specs_of(tensors));
  write_tensors(writer, tensors);
}

void write_model(const Model& model, const fs::path& folder) {
  write_packed(model, OutputFormat::squeezellm, folder / "torch");
  write_packed(model, OutputFormat::squeezellm_safetensors, folder / "safetensors");
  write_plain(model, folder / "plain");
}

void write_all(const fs::path& folder) {
  Model mixed;
  for (const int bits : {2, 3, 4, 8}) {
    const TableModule sparse = make_table_module({"b.sparse", 37, 96, bits, DType::f32, true, 1});
    const TableModule half = make_table_module({"b.half", 5, 64, bits, DType::f16, true, 2});
    const TableModule dense = make_table_module({"b.dense", 8, 32, bits, DType::f32, false, 3});
    write_model({{sparse, half, dense}}, folder / fmt::format("w{}", bits));
    write_model({{dense}}, folder / fmt::format("w{}-dense", bits));
    mixed.modules.push_back(
        make_table_module({fmt::format("layer.{}", bits), 5, 64, bits, DType::f32, bits > 2, 4}));
  }
  write_packed(mixed, OutputFormat::squeezellm_safetensors, folder / "mixed" / "safetensors");
  write_plain(mixed, folder / "mixed" / "plain");
}

}  // namespace
}  // namespace quern::test

int main(int, char** arguments) {
  quern::test::write_all(arguments[1]);
}
