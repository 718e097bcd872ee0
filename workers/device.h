#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "kernels/core/dtype.h"

namespace quern {

/// Where the ranks of a job compute. automatic: a GPU each if they have any, else the processors.
enum class DeviceKind : std::uint8_t { automatic, cpu, cuda };

struct DeviceRequest {
  DeviceKind kind = DeviceKind::cpu;
  std::optional<DType> activation{};  ///< f64, f32, bf16 or f16; empty: the model's on a GPU
  /// The model's type, asked for on rank 0 when a GPU is used; may throw. Empty: bf16.
  std::function<DType()> model_dtype{};
  std::size_t memory_limit_bytes = 0;  ///< of a rank; 0: its share of what is free at the start
  bool ignore_numerics = false;        ///< GPUs of several models in one job pass
};

/// Index of the GPU of a host's n-th rank: one each, round robin where ranks are more. Empty where
/// the processors are to be used. With DeviceKind::cuda there must be one: 0 if there is none, for
/// the backend to refuse.
std::optional<int> gpu_of_rank(DeviceKind kind, int gpus, int local_rank);

/// How the ranks of a job lie on GPUs.
struct DeviceMap {
  int ranks = 0;  ///< on GPUs
  int gpus = 0;   ///< used

  bool shares_gpus() const noexcept { return gpus < ranks; }
};

/// places: of each rank in order, the name of its GPU, unique in the job; empty: the processors.
/// Throws ConfigError unless all ranks have a GPU or none has.
DeviceMap map_devices(std::span<const std::string> places);

/// Throws ConfigError where a rank computes with other numerics than rank 0: the bytes would
/// depend on who does what.
void check_same_numerics(std::span<const std::string> numerics);

/// Throws ConfigError if the processors are to compute in a type that they do not have.
void check_cpu_activation(const DeviceRequest& request);

}  // namespace quern
