#include "pipeline/module_rows.h"

#include <map>
#include <string>

#include "kernels/core/error.h"
#include "pipeline/gather_json.h"
#include "workers/agreement.h"

namespace quern {

nlohmann::json module_rows(RunContext& context) {
  Session& session = context.session;
  session.enter("read what was committed");
  const auto bundles = context.plan.stored_bundles();
  nlohmann::json mine = nlohmann::json::object();
  run_agreed(session, [&] {
    for (std::size_t i = 0; i < bundles.size(); ++i) {
      if (static_cast<int>(i) % session.ranks() != session.rank()) continue;
      const auto stored = context.store.read(bundles[i]->name);
      if (!stored) {
        throw StoreError(bundles[i]->name +
                         ": the bundle is damaged; run quantize again, which computes it anew");
      }
      mine[bundles[i]->name] = summary_rows(*stored);
    }
  });
  nlohmann::json of_bundle = nlohmann::json::object();
  for (const nlohmann::json& part : gather_json(session, mine)) of_bundle.update(part);
  of_bundle = broadcast_json(session, of_bundle);
  nlohmann::json rows = nlohmann::json::array();
  for (const BundleUnit* bundle : bundles) {
    for (const auto& row : of_bundle.at(bundle->name)) rows.push_back(row);
  }
  return rows;
}

std::vector<ModuleSummary> read_summaries(const nlohmann::json& rows) {
  std::vector<ModuleSummary> summaries;
  for (const nlohmann::json& row : rows) summaries.push_back(read_summary(row));
  return summaries;
}

}  // namespace quern
