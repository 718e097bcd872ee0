#include "pipeline/flows/solve_flow.h"

#include <fmt/format.h>

#include <algorithm>

#include "pipeline/model/layer_loader.h"
#include "workers/agreement.h"

namespace quern {
namespace {

/// Bundles of each rank, the last of the plan first: in this order a torch file grows.
std::vector<std::vector<const BundleUnit*>> deal(std::span<const BundleUnit* const> bundles,
                                                 int ranks) {
  const std::vector<int> owners = assign_owners(bundles, ranks);
  std::vector<std::vector<const BundleUnit*>> hands(static_cast<std::size_t>(ranks));
  for (std::size_t i = 0; i < bundles.size(); ++i) {
    hands[static_cast<std::size_t>(owners[i])].push_back(bundles[i]);
  }
  for (auto& hand : hands) std::ranges::reverse(hand);
  return hands;
}

std::vector<TensorNode> weights_of(const BundleUnit& bundle) {
  std::vector<TensorNode> nodes;
  for (const PlannedModule& planned : bundle.modules) {
    const LinearModule& module = planned.module;
    nodes.push_back({module.role,
                     Part::weight,
                     module.weight_name(),
                     {module.out_features, module.in_features}});
  }
  return nodes;
}

}  // namespace

void solve_stored(RunContext& context, QuantizeBundles& quantize,
                  std::span<const BundleUnit* const> bundles, const StatisticsStore* statistics,
                  Progress& progress) {
  Session& session = context.session;
  LayerLoader loader(session, *context.model.weights);
  const auto hands = deal(bundles, session.ranks());
  std::size_t turns = 0;
  for (const auto& hand : hands) turns = std::max(turns, hand.size());
  progress.begin("solve round", static_cast<std::int64_t>(turns));
  for (std::size_t turn = 0; turn < turns; ++turn) {
    std::vector<BundleTask> tasks;
    for (std::size_t rank = 0; rank < hands.size(); ++rank) {
      if (turn >= hands[rank].size()) continue;
      tasks.push_back({hands[rank][turn], static_cast<int>(rank), nullptr});
    }
    LayerWeights weights;
    BundleStatistics measured;
    run_agreed(session, [&] {
      const auto lap = context.watch.lap("load");
      for (BundleTask& task : tasks) {
        if (task.owner != session.rank()) continue;
        session.enter(fmt::format("load {}", task.bundle->name));
        const Trace::Span span(session.trace.get(), task.bundle->name);
        weights = loader.load_own(weights_of(*task.bundle));
        if (statistics != nullptr) measured = statistics->read(*task.bundle, quantize.needed());
        task.statistics = &measured;
      }
    });
    quantize.solve(tasks, weights);
    progress.step(fmt::format("{} bundle{} solved", tasks.size(), tasks.size() == 1 ? "" : "s"));
    stop_if_asked(context);
  }
  quantize.settle();
  progress.end();
}

}  // namespace quern
