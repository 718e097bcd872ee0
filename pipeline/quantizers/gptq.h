#pragma once

#include <memory>

#include "pipeline/quantizers/quantizer.h"

namespace quern {

/// GPTQ (Frantar et al. 2022) with one factorisation per input: see Solver::factorise and gptq.
std::unique_ptr<Quantizer> make_gptq(const QuantizeConfig& config);

}  // namespace quern
