#pragma once

#include "pipeline/allocation.h"
#include "pipeline/run_context.h"
#include "pipeline/statistics_store.h"

namespace quern {

/// Collective. What the configuration leaves to be decided over the whole model; from the run's
/// store if it was decided before. statistics: of all planned modules, needed only where
/// allocates_by_statistics().
Allocation allocate(RunContext& context, const StatisticsStore* statistics);

}  // namespace quern
