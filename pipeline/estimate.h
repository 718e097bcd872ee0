#pragma once

#include <cstdint>

#include "pipeline/config/run_config.h"
#include "pipeline/model/model_graph.h"
#include "pipeline/plan.h"

namespace quern {

/// Sets the figures of a bundle from its input and modules.
void estimate_bundle(BundleUnit& bundle, const RunFile& config);

/// Sets those of a layer, its bundles apart.
void estimate_layer(LayerUnit& unit, const LayerGraph& layer, const ModelGeometry& geometry,
                    const RunFile& config);

/// What a run will take on each of `ranks` ranks, in bytes; the disk figures are for the job.
struct Estimate {
  std::uint64_t activation_bytes = 0;  ///< of a rank's micro-batches
  std::uint64_t weight_bytes = 0;      ///< largest layer, on the device and prefetched
  std::uint64_t statistics_bytes = 0;  ///< H or F of the inputs held at once
  std::uint64_t solver_bytes = 0;      ///< largest bundle on its owner
  std::uint64_t state_bytes = 0;       ///< bundle files on disk
  std::uint64_t output_bytes = 0;      ///< exported model on disk
  double forward_flops = 0;            ///< of the job
  double statistics_flops = 0;
  double solve_flops = 0;

  std::uint64_t peak_rank_bytes() const noexcept;
};

Estimate estimate(const ModelGraph& graph, const Plan& plan, const RunFile& config, int ranks);

}  // namespace quern
