#include "pipeline/module_rows.h"

#include "pipeline/bundle_shares.h"
#include "pipeline/gather_json.h"

namespace quern {

nlohmann::json module_rows(RunContext& context) {
  context.session.enter("read what was committed");
  const auto rows_of = [&](const BundleUnit& bundle) {
    const auto attributes = context.store.read_attributes(bundle.name);
    if (!attributes) refuse_damaged(context.store, bundle.name);
    return summary_rows(*attributes);
  };
  const nlohmann::json gathered = gather_by_bundle(context, rows_of, context.session.threads);
  const nlohmann::json of_bundle = broadcast_json(context.session, gathered);
  nlohmann::json rows = nlohmann::json::array();
  for (const BundleUnit* bundle : context.plan.stored_bundles()) {
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
