#include "pipeline/prediction/kept_inputs.h"

#include <algorithm>

namespace quern {

KeptInputs kept_inputs(const DeviceNeeds& needs, std::uint64_t device_limit_bytes,
                       std::uint64_t host_budget_bytes) {
  const std::uint64_t all = static_cast<std::uint64_t>(needs.rounds) * needs.layer_input_bytes;
  KeptInputs kept;
  kept.device_bytes = place_on_device(needs, device_limit_bytes).layer_input_bytes;
  kept.host_bytes = std::min(all - kept.device_bytes, host_budget_bytes);
  kept.scratch_bytes = all - kept.device_bytes - kept.host_bytes;
  return kept;
}

}  // namespace quern
