#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <vector>

#include "pipeline/run_context.h"

namespace quern {

/// This rank's share of the plan's stored bundles, in the plan's order.
std::vector<const BundleUnit*> own_bundles(const RunContext& context);

/// Collective. Calls work(bundle) for this rank's share of the plan's stored bundles; what it
/// throws is every rank's error.
void share_bundles(RunContext& context, const std::function<void(const BundleUnit&)>& work);

/// Collective. What describe(bundle) says of every stored bundle, as an object by bundle name, on
/// rank 0; empty elsewhere. Each rank describes its share, on so many threads.
nlohmann::json gather_by_bundle(RunContext& context,
                                const std::function<nlohmann::json(const BundleUnit&)>& describe,
                                int threads = 1);

}  // namespace quern
