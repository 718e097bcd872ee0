#pragma once

#include <memory>

#include "pipeline/exporters/exporter.h"

namespace quern {

/// SqueezeLLM's own checkpoint, one .pt file with quant_config.json: qweight, lookup_table, and
/// rows, cols, vals of modules with outliers; config.json stays as it is.
std::unique_ptr<Exporter> make_squeezellm_exporter(const Plan& plan);

/// The same tensors in safetensors, described by config.json's quantization_config.
std::unique_ptr<Exporter> make_squeezellm_safetensors_exporter(const Plan& plan);

}  // namespace quern
