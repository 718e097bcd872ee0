#pragma once

#include <string>

#include "pipeline/device/device_needs.h"

namespace quern {

/// Why a run, or its evaluation, does not fit into limit_bytes of a device, with the micro-batch
/// that would; empty where it fits.
std::string device_refusal(const ModelGraph& graph, const Plan& plan, const RunFile& config,
                           const DeviceUse& use, std::uint64_t limit_bytes);

}  // namespace quern
