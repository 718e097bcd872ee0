#pragma once

#include <span>

#include "pipeline/progress.h"
#include "pipeline/run_context.h"
#include "pipeline/stages/quantize.h"
#include "pipeline/statistics_store.h"

namespace quern {

/// Solves bundles whose statistics are at hand, or that need none: no forward pass, every rank on
/// bundles of its own. Collective. statistics: nullptr where `needed` is empty. Throws Interrupted
/// between bundles when a signal asks for it.
void solve_stored(RunContext& context, QuantizeBundles& quantize,
                  std::span<const BundleUnit* const> bundles, const StatisticsStore* statistics,
                  Progress& progress);

}  // namespace quern
