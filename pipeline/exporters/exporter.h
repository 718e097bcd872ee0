#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "pipeline/config/run_config.h"
#include "pipeline/plan.h"
#include "pipeline/quantized_module.h"
#include "workers/tensors/tensor_file.h"

namespace quern {

/// A tensor ready to be written.
struct NamedTensor {
  std::string name;
  HostTensor tensor;
};

/// What tensors are written into: shards of safetensors with an index, or one torch file.
enum class Container : std::uint8_t { safetensors, torch };

/// A JSON file that belongs beside the tensors.
struct SideFile {
  std::string name;
  nlohmann::ordered_json contents;
};

/// A quantized model, as far as its configuration files speak of it; views.
struct ExportedModel {
  const ModelGraph& graph;
  const QuantizeConfig& config;
  std::span<const ModuleSummary> modules;  ///< in order of the plan
};

/// An export format: how quantized modules are laid out and what is said of them. Pure.
class Exporter {
 public:
  virtual ~Exporter() = default;

  /// Tensors that take the place of the module's ".weight". model_dtype: of that weight.
  virtual std::vector<TensorSpec> specs(const ModuleSummary& module, DType model_dtype) const = 0;
  /// The same tensors, with values, in the same order.
  virtual std::vector<NamedTensor> tensors(QuantizedModule module, DType model_dtype) const = 0;
  /// Type in which a quantized module's bias is stored.
  virtual DType bias_dtype(DType model_dtype) const = 0;
  virtual Container container() const = 0;
  /// Whole numbers that stand between the tensors of a torch file; none for safetensors.
  virtual std::vector<NamedScalar> scalars(const ExportedModel& model) const = 0;
  /// Value of config.json's quantization_config; null where config.json stays as it is.
  virtual nlohmann::ordered_json quantization_config(const ExportedModel& model) const = 0;
  /// Files to be written beside config.json.
  virtual std::vector<SideFile> side_files(const ExportedModel& model) const = 0;
};

/// The exporter of a format: the explicit table of formats.
std::unique_ptr<Exporter> make_exporter(OutputFormat format, const Plan& plan);

/// Plain float tensor in another plain float type, round to nearest even; same values if equal.
HostTensor converted(HostTensor tensor, DType dtype);

}  // namespace quern
