#pragma once

#include <cstdint>

#include "pipeline/config/run_config.h"
#include "pipeline/model/model_graph.h"
#include "pipeline/plan.h"

namespace quern {

/// Where a model is computed, as far as it decides sizes.
struct DeviceUse {
  int ranks = 1;
  DType activation = DType::bf16;  ///< of weights and activations
};

/// What the rank with the most micro-batches needs of its device, in bytes: the most at any time.
/// Weights count twice: those of a layer, and their solved values until they are installed.
struct DeviceNeeds {
  std::uint64_t weight_bytes = 0;
  std::uint64_t statistics_bytes = 0;  ///< sums of the inputs that are measured together
  std::uint64_t work_bytes = 0;        ///< of the solver, or of a micro-batch inside a layer
  std::uint64_t backend_bytes = 0;     ///< working space that the backend keeps
  std::uint64_t state_bytes = 0;       ///< of a micro-batch between layers
  std::uint64_t layer_input_bytes =
      0;                    ///< kept of a micro-batch in all layers, for a backward pass
  std::int64_t rounds = 0;  ///< micro-batches

  /// With nothing but the micro-batch in hand on the device.
  std::uint64_t least_bytes() const noexcept {
    return weight_bytes + statistics_bytes + work_bytes + backend_bytes;
  }
  /// With everything on the device.
  std::uint64_t most_bytes() const noexcept {
    return least_bytes() + static_cast<std::uint64_t>(rounds) * (state_bytes + layer_input_bytes);
  }
};

/// Of quantizing.
DeviceNeeds device_needs(const ModelGraph& graph, const Plan& plan, const RunFile& config,
                         const DeviceUse& use);

/// Windows whose perplexity is measured.
struct EvaluationSize {
  std::int64_t rounds = 0;        ///< micro-batches of a rank
  std::int64_t batch_tokens = 0;  ///< of the largest one
};

/// Of measuring perplexity.
DeviceNeeds evaluation_needs(const ModelGraph& graph, const EvaluationSize& size, DType activation);

/// What lies on the device under a limit; the states that do not are in host memory, and the layer
/// inputs there or in a file.
struct DevicePlacement {
  std::int64_t states_on_device = 0;
  std::uint64_t state_bytes = 0;        ///< of one
  std::uint64_t layer_input_bytes = 0;  ///< that may be kept on the device
  std::uint64_t host_bytes = 0;         ///< of the states that are not on the device
};

/// States first: they move in every layer, a layer input comes and goes once. Where there is no
/// limit the device's memory is the host's, and layer inputs count as its own.
DevicePlacement place_on_device(const DeviceNeeds& needs, std::uint64_t limit_bytes);

}  // namespace quern
