#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "pipeline/config/run_config.h"
#include "pipeline/plan.h"
#include "pipeline/quantized_module.h"
#include "workers/tensors/safetensors.h"

namespace quern {

/// A tensor ready to be written.
struct NamedTensor {
  std::string name;
  HostTensor tensor;
};

/// An export format: how quantized modules are laid out and what config.json says of them. Pure.
class Exporter {
 public:
  virtual ~Exporter() = default;

  /// Tensors that take the place of the module's ".weight". model_dtype: of that weight.
  virtual std::vector<TensorSpec> specs(const PlannedModule& module, DType model_dtype) const = 0;
  /// The same tensors, with values, in the same order.
  virtual std::vector<NamedTensor> tensors(const QuantizedModule& module,
                                           DType model_dtype) const = 0;
  /// Type in which a quantized module's bias is stored.
  virtual DType bias_dtype(DType model_dtype) const = 0;
  /// Value of config.json's quantization_config; null for a plain model.
  virtual nlohmann::ordered_json quantization_config(const ModelGraph& graph,
                                                     const QuantizeConfig& config) const = 0;
};

/// The exporter of a format: the explicit table of formats.
std::unique_ptr<Exporter> make_exporter(OutputFormat format, const Plan& plan);

/// Plain float tensor in another plain float type, round to nearest even; same values if equal.
HostTensor converted(HostTensor tensor, DType dtype);

}  // namespace quern
