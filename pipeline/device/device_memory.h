#pragma once

#include "pipeline/device/device_needs.h"
#include "pipeline/device/round_states.h"
#include "pipeline/run_context.h"

namespace quern {

/// Collective. MemoryError where a run does not fit into the memory of a rank's device, or what is
/// then left for the host does not fit there. Logs what will lie where.
void check_device_memory(Session& session, const ModelGraph& graph, const Plan& plan,
                         const RunFile& config);

/// Logs the most that this rank's device held, for comparison with what was predicted.
void log_device_peak(const Session& session);

/// What of this run lies on this rank's device.
DevicePlacement placement_of(const RunContext& context);

inline RoundPlacement states_of(const DevicePlacement& placement) {
  return {placement.states_on_device, placement.state_bytes};
}

}  // namespace quern
