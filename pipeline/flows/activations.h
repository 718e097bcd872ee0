#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "pipeline/device/round_states.h"
#include "pipeline/model/forward.h"
#include "pipeline/run_context.h"

namespace quern {

/// The states of this rank's micro-batches between layers, and their copies in the store.
class Activations {
 public:
  /// kind: what the residuals are, "layer" inputs or "gradient" at a layer's input; names the
  /// files.
  Activations(RunContext& context, const MicroBatches& batches, const RoundPlacement& placement,
              std::string kind = "layer");

  const MicroBatches& batches() const noexcept { return batches_; }
  std::int64_t rounds() const { return batches_.rounds(context_.session.ranks()); }
  /// The state of this rank's micro-batch in a round, on the device until changed() or
  /// unchanged(); nullptr when the rank has none left. One round at a time.
  BlockState* in_round(std::int64_t round);
  /// Ends the work on a round: what its state holds now is kept, or what it held before.
  void changed(std::int64_t round) { states_.changed(round); }
  void unchanged(std::int64_t round) { states_.unchanged(round); }
  /// Exchanges all states with those of `other`, which come from the same micro-batches.
  void swap(RoundStates& other) noexcept { states_.swap(other); }

  /// Residuals of layer 0 from the token ids.
  void embed(Forward& forward, const LayerWeights& ends);

  /// Collective: commits the residuals as those of `layer`; what was saved for other layers is then
  /// deleted.
  void save(std::int64_t layer);
  /// Collective: the first of `layers` whose residuals are all saved and whole; -1 if none is.
  std::int64_t find_saved(std::span<const std::int64_t> layers);
  /// Residuals of a layer found by find_saved().
  void restore(std::int64_t layer);

 private:
  std::vector<std::string> names(std::int64_t layer) const;
  std::vector<std::int64_t> own_batches() const;

  RunContext& context_;
  const MicroBatches& batches_;
  std::string kind_;
  RoundStates states_;  ///< of this rank's micro-batches
};

}  // namespace quern
