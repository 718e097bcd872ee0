#pragma once

#include <memory>

#include "pipeline/quantizers/quantizer.h"

namespace quern {

/// SqueezeLLM (Kim et al. 2024): per-row codebooks of least Fisher-weighted error, outliers apart;
/// optionally refined against GuidedQuant's H by LNQ. See CodebookSolver.
std::unique_ptr<Quantizer> make_squeezellm(const QuantizeConfig& config);

}  // namespace quern
