#pragma once

#include <memory>

#include "pipeline/exporters/exporter.h"

namespace quern {

/// A plain Hugging Face folder: every weight in the model's own type, quantized modules replaced by
/// their dequantized values rounded to it. Loads wherever the original loads.
std::unique_ptr<Exporter> make_dequantized_exporter(const Plan& plan);

}  // namespace quern
