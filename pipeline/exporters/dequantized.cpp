#include "pipeline/exporters/dequantized.h"

namespace quern {
namespace {

class DequantizedExporter final : public Exporter {
 public:
  std::vector<TensorSpec> specs(const ModuleSummary& module, DType model_dtype) const override {
    return {{module.name + ".weight", model_dtype, {module.out_features, module.in_features}}};
  }

  std::vector<NamedTensor> tensors(QuantizedModule module, DType model_dtype) const override {
    std::vector<NamedTensor> result;
    result.push_back({module.name + ".weight", converted(dequantize_on_host(module), model_dtype)});
    return result;
  }

  DType bias_dtype(DType model_dtype) const override { return model_dtype; }

  Container container() const override { return Container::safetensors; }
  std::vector<NamedScalar> scalars(const ExportedModel&) const override { return {}; }
  nlohmann::ordered_json quantization_config(const ExportedModel&) const override {
    return nullptr;
  }
  std::vector<SideFile> side_files(const ExportedModel&) const override { return {}; }
};

}  // namespace

std::unique_ptr<Exporter> make_dequantized_exporter(const Plan&) {
  return std::make_unique<DequantizedExporter>();
}

}  // namespace quern
