#include "pipeline/flows/activations.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/core/error.h"
#include "workers/agreement.h"

namespace quern {

Activations::Activations(RunContext& context, const MicroBatches& batches,
                         const RoundPlacement& placement, std::string kind)
    : context_(context),
      batches_(batches),
      kind_(std::move(kind)),
      states_(context.session.backend->memory(), placement) {}

/// This rank's micro-batches, by round.
std::vector<std::int64_t> Activations::own_batches() const {
  std::vector<std::int64_t> own;
  for (std::int64_t round = 0; round < rounds(); ++round) {
    const Session& session = context_.session;
    const std::int64_t m = batches_.of_round(round, session.rank(), session.ranks());
    if (m >= 0) own.push_back(m);
  }
  return own;
}

BlockState* Activations::in_round(std::int64_t round) {
  return round < states_.rounds() ? &states_.at(round) : nullptr;
}

void Activations::embed(Forward& forward, const LayerWeights& ends) {
  std::int64_t round = 0;
  for (const std::int64_t m : own_batches()) {
    BlockState state;
    state.residual = forward.embed(ends, batches_.ids(m));
    states_.put(round++, std::move(state));
  }
  context_.session.backend->memory().synchronize();
}

std::vector<std::string> Activations::names(std::int64_t layer) const {
  std::vector<std::string> result;
  for (std::int64_t m = 0; m < batches_.count(); ++m) {
    result.push_back(fmt::format("activations/{}-{:03}/micro-batch-{:05}.h5", kind_, layer, m));
  }
  return result;
}

void Activations::save(std::int64_t layer) {
  Session& session = context_.session;
  const auto lap = context_.watch.lap("save activations");
  const std::vector<std::string> all = names(layer);
  std::vector<JournalEntry> written;
  run_agreed(session, [&] {
    std::int64_t round = 0;
    for (const std::int64_t m : own_batches()) {
      const std::string& name = all[static_cast<std::size_t>(m)];
      const std::int64_t own = round++;
      if (context_.store.contains(name)) continue;  // restored from there
      Bundle bundle{"{}", {}};
      bundle.arrays["residual"] = states_.residual_on_host(own);
      written.push_back(context_.store.write(name, bundle));
    }
  });
  acknowledge(session, context_.store, written);
  std::vector<std::string> others;
  for (std::size_t other = 0; other < context_.plan.layers.size(); ++other) {
    const auto index = static_cast<std::int64_t>(other);
    if (index == layer) continue;
    for (std::string& name : names(index)) others.push_back(std::move(name));
  }
  discard(session, context_.store, others);
}

std::int64_t Activations::find_saved(std::span<const std::int64_t> layers) {
  for (const std::int64_t layer : layers) {
    const std::vector<std::string> all = names(layer);
    const auto known = [&](const std::string& name) { return context_.store.contains(name); };
    if (!std::ranges::all_of(all, known)) continue;
    set_aside_damaged(context_.session, context_.store, all);
    if (std::ranges::all_of(all, known)) return layer;
  }
  return -1;
}

void Activations::restore(std::int64_t layer) {
  Session& session = context_.session;
  const std::vector<std::string> all = names(layer);
  run_agreed(session, [&] {
    std::int64_t round = 0;
    for (const std::int64_t m : own_batches()) {
      const std::string& name = all[static_cast<std::size_t>(m)];
      const auto bundle = context_.store.read(name);
      if (!bundle || !bundle->arrays.contains("residual")) {
        throw StoreError(
            fmt::format("{}: saved activations cannot be read back; delete the folder "
                        "'activations' of the run directory and run again",
                        name));
      }
      BlockState state;
      state.residual = session.backend->memory().to_device(bundle->arrays.at("residual"));
      states_.put(round++, std::move(state));
    }
  });
}

}  // namespace quern
