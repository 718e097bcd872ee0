#pragma once

#include <memory>

#include "pipeline/exporters/exporter.h"

namespace quern {

/// The GPTQ checkpoint of AutoGPTQ, GPTQModel and vLLM: qweight, qzeros, scales, g_idx. Format v1
/// where every grid is symmetric; gptq_v2 otherwise, because v1 cannot store a zero point of 0.
std::unique_ptr<Exporter> make_gptq_exporter(const Plan& plan);

}  // namespace quern
