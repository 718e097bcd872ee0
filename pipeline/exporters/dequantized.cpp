#include "pipeline/exporters/dequantized.h"

namespace quern {
namespace {

class DequantizedExporter final : public Exporter {
 public:
  std::vector<TensorSpec> specs(const PlannedModule& planned, DType model_dtype) const override {
    return {{planned.module.weight_name(),
             model_dtype,
             {planned.module.out_features, planned.module.in_features}}};
  }

  std::vector<NamedTensor> tensors(const QuantizedModule& module,
                                   DType model_dtype) const override {
    std::vector<NamedTensor> result;
    result.push_back({module.name + ".weight", converted(dequantize_on_host(module), model_dtype)});
    return result;
  }

  DType bias_dtype(DType model_dtype) const override { return model_dtype; }

  nlohmann::ordered_json quantization_config(const ModelGraph&,
                                             const QuantizeConfig&) const override {
    return nullptr;
  }
};

}  // namespace

std::unique_ptr<Exporter> make_dequantized_exporter(const Plan&) {
  return std::make_unique<DequantizedExporter>();
}

}  // namespace quern
