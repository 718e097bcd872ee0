#pragma once

#include <cstdint>

#include "pipeline/device/device_needs.h"

namespace quern {

/// Where the layer inputs that a backward pass needs lie on the rank that keeps the most of them.
struct KeptInputs {
  std::uint64_t device_bytes = 0;
  std::uint64_t host_bytes = 0;
  std::uint64_t scratch_bytes = 0;  ///< in a file
};

/// host_budget_bytes: what may be kept in host memory.
KeptInputs kept_inputs(const DeviceNeeds& needs, std::uint64_t device_limit_bytes,
                       std::uint64_t host_budget_bytes);

}  // namespace quern
