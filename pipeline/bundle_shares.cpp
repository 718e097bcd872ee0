#include "pipeline/bundle_shares.h"

#include <utility>
#include <vector>

#include "pipeline/gather_json.h"
#include "workers/agreement.h"
#include "workers/parallel.h"

namespace quern {

std::vector<const BundleUnit*> own_bundles(const RunContext& context) {
  const auto bundles = context.plan.stored_bundles();
  std::vector<const BundleUnit*> mine;
  for (std::size_t i = 0; i < bundles.size(); ++i) {
    const auto turn = static_cast<int>(i) % context.session.ranks();
    if (turn == context.session.rank()) mine.push_back(bundles[i]);
  }
  return mine;
}

void share_bundles(RunContext& context, const std::function<void(const BundleUnit&)>& work) {
  run_agreed(context.session, [&] {
    for (const BundleUnit* bundle : own_bundles(context)) work(*bundle);
  });
}

nlohmann::json gather_by_bundle(RunContext& context,
                                const std::function<nlohmann::json(const BundleUnit&)>& describe,
                                int threads) {
  const std::vector<const BundleUnit*> share = own_bundles(context);
  std::vector<nlohmann::json> described(share.size());
  run_agreed(context.session, [&] {
    run_parallel(share.size(), threads, [&](std::size_t i) { described[i] = describe(*share[i]); });
  });
  nlohmann::json mine = nlohmann::json::object();
  for (std::size_t i = 0; i < share.size(); ++i) mine[share[i]->name] = std::move(described[i]);
  nlohmann::json all = nlohmann::json::object();
  for (const nlohmann::json& part : gather_json(context.session, mine)) all.update(part);
  return all;
}

}  // namespace quern
