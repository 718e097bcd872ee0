#include "pipeline/device/device_memory.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "kernels/core/error.h"
#include "pipeline/device/device_refusal.h"
#include "workers/agreement.h"
#include "workers/host_memory.h"

namespace quern {
namespace {

double gigabytes(std::uint64_t bytes) {
  return static_cast<double>(bytes) / 1e9;
}

DeviceUse use_of(const Session& session) {
  return {session.ranks(), session.backend->activation_dtype()};
}

void require_host_memory(const DevicePlacement& placement, const Session& session) {
  const std::uint64_t available = host_bytes_of_rank(session.ranks_on_host);
  if (available == 0 || placement.host_bytes <= available) return;
  throw MemoryError(fmt::format(
      "host memory: {:.2f} GB of activations do not fit on the device and {:.2f} GB of host memory "
      "are available to a rank; use fewer calibration.samples, more ranks on other hosts, or a "
      "larger run.gpu_memory",
      gigabytes(placement.host_bytes), gigabytes(available)));
}

void log_placement(const Session& session, const DeviceNeeds& needs,
                   const DevicePlacement& placement) {
  const std::uint64_t limit = session.backend->memory().limit_bytes();
  const std::string inputs =
      needs.layer_input_bytes == 0
          ? std::string()
          : fmt::format(
                "; {:.2f} of {:.2f} GB of kept layer inputs on the device",
                gigabytes(placement.layer_input_bytes),
                gigabytes(static_cast<std::uint64_t>(needs.rounds) * needs.layer_input_bytes));
  session.log->info(
      "device memory: {:.2f} GB allowed, {:.2f} GB needed beside the activations; {} of {} "
      "micro-batches on the device, {:.2f} GB in host memory{}",
      gigabytes(limit), gigabytes(needs.least_bytes()), placement.states_on_device, needs.rounds,
      gigabytes(placement.host_bytes), inputs);
}

}  // namespace

DevicePlacement placement_of(const RunContext& context) {
  return place_on_device(
      device_needs(context.model.graph, context.plan, context.config, use_of(context.session)),
      context.session.backend->memory().limit_bytes());
}

void log_device_peak(const Session& session) {
  const Memory& memory = session.backend->memory();
  if (memory.limit_bytes() == Memory::unlimited) return;
  session.log->info("device memory: at most {:.2f} GB were in use", gigabytes(memory.peak_bytes()));
}

void check_device_memory(Session& session, const ModelGraph& graph, const Plan& plan,
                         const RunFile& config) {
  const std::uint64_t limit = session.backend->memory().limit_bytes();
  if (limit == Memory::unlimited) return;
  const DeviceUse use = use_of(session);
  const DeviceNeeds needs = device_needs(graph, plan, config, use);
  const DevicePlacement placement = place_on_device(needs, limit);
  run_agreed(session, [&] {
    const std::string refusal = device_refusal(graph, plan, config, use, limit);
    if (!refusal.empty()) throw MemoryError(refusal);
    require_host_memory(placement, session);
  });
  if (session.is_root()) log_placement(session, needs, placement);
}

}  // namespace quern
