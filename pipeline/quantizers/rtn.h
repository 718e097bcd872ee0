#pragma once

#include <memory>

#include "pipeline/quantizers/quantizer.h"

namespace quern {

/// Round to nearest: needs no calibration; the scale search minimises the plain squared error.
std::unique_ptr<Quantizer> make_rtn(const QuantizeConfig& config);

}  // namespace quern
