#pragma once

#include "pipeline/model/forward.h"
#include "pipeline/progress.h"
#include "pipeline/run_context.h"

namespace quern {

/// How a run came by its statistics.
struct StatisticsOrigin {
  std::int64_t reused = 0;    ///< layer inputs whose statistics an earlier run had kept
  std::int64_t measured = 0;  ///< by this job
};

/// Collective. Solves and commits every bundle of the plan that is not committed yet: from kept
/// statistics where they are there, and by the walk that the method needs for the rest.
/// batches: nullptr for a method without statistics. identity: of the run.
StatisticsOrigin quantize_all(RunContext& context, const MicroBatches* batches,
                              const nlohmann::json& identity, Progress& progress);

}  // namespace quern
