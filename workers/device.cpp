#include "workers/device.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "kernels/core/error.h"

namespace quern {

std::optional<int> gpu_of_rank(DeviceKind kind, int gpus, int local_rank) {
  if (kind == DeviceKind::cpu || (kind == DeviceKind::automatic && gpus == 0)) return std::nullopt;
  return gpus == 0 ? 0 : local_rank % gpus;
}

DeviceMap map_devices(std::span<const std::string> places) {
  const std::set<std::string> gpus(places.begin(), places.end());
  const auto on_cpu = std::ranges::count(places, std::string());
  if (on_cpu == std::ssize(places)) return {};
  if (on_cpu == 0) {
    return {.ranks = static_cast<int>(places.size()), .gpus = static_cast<int>(gpus.size())};
  }
  throw ConfigError(
      fmt::format("run.device: auto: rank {} has no GPU, but {} of {} ranks have one; expected the "
                  "same for all. "
                  "Give every rank a GPU, or run with run.device: cpu",
                  std::ranges::find(places, std::string()) - places.begin(),
                  std::ssize(places) - on_cpu, places.size()));
}

void check_same_numerics(std::span<const std::string> numerics) {
  for (std::size_t rank = 1; rank < numerics.size(); ++rank) {
    if (numerics[rank] == numerics[0]) continue;
    throw ConfigError(fmt::format(
        "run.device: rank 0 computes with {}, rank {} with {}; expected the same on every rank, as "
        "the bytes would depend on who does what. Use GPUs of one model, or accept it with "
        "run.ignore_numerics",
        numerics[0], rank, numerics[rank]));
  }
}

void check_cpu_activation(const DeviceRequest& request) {
  if (!request.activation || dtype_bytes(*request.activation) > 2) return;
  throw ConfigError(fmt::format(
      "run.activation_type: {} asked for, but there is no GPU and the CPU computes in float32 "
      "or float64; remove it or run where there is a GPU",
      dtype_name(*request.activation)));
}

}  // namespace quern
